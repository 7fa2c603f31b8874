"""What a meta gradient costs: bytes, seconds, collectives."""
