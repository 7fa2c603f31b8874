"""Images and networks of the experiments."""
