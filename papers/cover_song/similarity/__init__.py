"""How alike two songs are: key, distances, alignments, an index of candidates."""
