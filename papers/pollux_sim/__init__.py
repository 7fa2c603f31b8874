"""Pollux (OSDI 2021): goodput-optimised cluster scheduling, its baselines and their simulator."""
