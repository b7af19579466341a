"""What can be wrong with labeled videos, and how it is found: the parts of check.py."""
