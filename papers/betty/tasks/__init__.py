"""Data sets, networks and what trains them."""
