"""Triton kernels for window attention and linear layers."""
