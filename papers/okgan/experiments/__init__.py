"""Programs of the experiments, one a module: ``program:`` of experiments.yaml is its name."""
