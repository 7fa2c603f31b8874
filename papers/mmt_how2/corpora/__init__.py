"""Sentences, pictures and what a recogniser hears of them."""
