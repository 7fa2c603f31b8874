"""Tables and figures out of records."""
