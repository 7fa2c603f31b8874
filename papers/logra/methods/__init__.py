"""Methods under comparison, each from one trained model."""
