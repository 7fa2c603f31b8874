"""Data sets: a registry of homes and checksums, downloads, and one loader module for each."""
