"""Data that the experiments share."""
