"""Faster attention behind the model's seam, for CUDA: handed to the model, never looked up."""
