"""Many labelled clips: made by a virtual camera."""
