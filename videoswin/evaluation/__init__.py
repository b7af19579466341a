"""Evaluate a model on labeled videos: metrics, reports and plots."""
