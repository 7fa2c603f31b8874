"""Data sets, networks and their training."""
