"""What the experiments measure of scores, lists and folders."""
