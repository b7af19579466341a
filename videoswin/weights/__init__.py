"""Names, files and other people's formats: everything between published weights and a model."""
