"""The applications that experiments take, and the program that fits them."""
