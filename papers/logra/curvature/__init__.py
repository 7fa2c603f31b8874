"""Sums of products of gradients over samples, kept packed, and the Hessians made of them."""
