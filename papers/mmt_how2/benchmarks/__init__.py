"""Speed and memory beside fairseq's own models."""
