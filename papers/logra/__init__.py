"""Data valuation with projected influence functions. Source: Choe et al. 2024."""
