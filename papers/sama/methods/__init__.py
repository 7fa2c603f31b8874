"""What is compared: loops of base and meta steps, weight networks, scores of samples."""
