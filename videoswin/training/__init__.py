"""Training: a recipe goes in, a checkpoint comes out, through one visible loop."""
