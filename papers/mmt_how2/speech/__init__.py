"""Audio: its features, and speech that is synthesised."""
