"""What was run once and is kept: archives, what has changed since, and runs made again."""
