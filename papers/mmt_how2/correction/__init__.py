"""Networks that correct a recogniser's words or choose among candidates."""
