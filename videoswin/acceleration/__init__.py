"""The same numbers sooner: kernels and blocks that are put into a model from outside."""
