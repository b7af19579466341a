"""Readers for the supported list and folder formats of labeled videos, used by manifest.py."""
