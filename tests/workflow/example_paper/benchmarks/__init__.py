"""Speed beside NumPy."""
