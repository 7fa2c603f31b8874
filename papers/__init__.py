"""One package per publication."""
