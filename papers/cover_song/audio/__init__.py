"""From audio files to chroma: reading, features, and a cache of them."""
