"""Ways to score all pairs of a collection, by the names that experiments use."""
