"""Programs of the experiments, one a module."""
