"""How pairs are scored and ranked, and how the networks are trained on them."""
