"""What happens when in a video of any length, and where the evidence is."""
