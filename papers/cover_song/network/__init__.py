"""The convolutional network that looks at a pair's cross-similarity matrix."""
