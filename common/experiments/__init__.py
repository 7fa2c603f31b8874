"""Experiment files, and the settings in them."""
