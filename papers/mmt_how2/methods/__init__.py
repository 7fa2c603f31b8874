"""Methods under comparison: systems that are trained, and rescoring of their candidates."""
