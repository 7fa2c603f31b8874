"""The page that a reader opens, and the summaries that it is made of."""
