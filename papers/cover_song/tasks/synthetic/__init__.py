"""Made-up works and performances of them, as notes, as chroma and as sound."""
