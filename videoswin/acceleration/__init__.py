"""Faster attention and blocks with the same results, which replace those of an existing model."""
