"""What can be wrong with labelled videos, and how it is found: the parts of check.py."""
