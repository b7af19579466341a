"""Classify videos with a Predictor, on PyTorch or another runtime, and export models to those runtimes."""
