"""A cluster and its jobs, in steps of simulated time."""
