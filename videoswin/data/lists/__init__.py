"""The kinds of lists and folders that labelled videos come in: one file per kind, read by manifest.py."""
