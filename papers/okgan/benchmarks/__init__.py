"""Time and memory beside peers, as ratios."""
