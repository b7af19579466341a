"""A video file in, a Prediction out: the predictor, its backends, and export to other runtimes."""
