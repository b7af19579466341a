"""Whole training runs as functions that return a Recipe."""

from videoswin.recipes.camera_motion import camera_motion

RECIPES = {"camera-motion": camera_motion}
"""The recipes that `videoswin train` knows, by name."""
