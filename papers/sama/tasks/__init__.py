"""What is learned: data sets and the networks that read them."""
