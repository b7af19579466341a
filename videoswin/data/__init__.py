"""Many labeled clips: made by a virtual camera."""
