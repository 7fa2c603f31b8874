"""Runs and their records, and how they are started."""
