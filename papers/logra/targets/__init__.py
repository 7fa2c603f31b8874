"""Tables, figures and listings out of records."""
