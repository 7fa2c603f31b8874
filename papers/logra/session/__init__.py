"""LogIX: one run that watches, logs and scores, and its folder."""
