"""Queries against a folder of music: candidates, standardised scores, a threshold."""
