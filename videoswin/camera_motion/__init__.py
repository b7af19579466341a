"""The bundled model that names the movement of the camera: its synthetic clips and its recipe."""
