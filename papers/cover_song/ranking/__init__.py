"""From scores of pairs to rankings, and how good these are."""
