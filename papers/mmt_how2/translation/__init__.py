"""Training, translating and scoring on fairseq, from plain text to BLEU."""
