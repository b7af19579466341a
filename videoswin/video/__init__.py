"""A video file goes in, uint8 views come out; knows no model."""
