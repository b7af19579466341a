"""Training of the bundled camera-motion model: synthetic clips of camera movements, and the recipe."""
