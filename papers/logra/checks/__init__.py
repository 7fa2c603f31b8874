"""Whether what was logged is what autograd gives, one sample at a time."""
