"""The kinds of lists and folders that labeled videos come in: one file per kind, read by manifest.py."""
