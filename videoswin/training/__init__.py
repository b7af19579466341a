"""Training: the recipe, the training loop, and everything around it."""
