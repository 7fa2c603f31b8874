"""Influence scores from logged gradients."""
