"""What the helpers for Hugging Face's and Lightning's trainers share."""
