"""Gradients of single samples, taken from layers as a backward pass goes by, and projected."""
