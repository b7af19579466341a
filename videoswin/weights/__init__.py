"""Load, download, convert and save model weights, in our own format and those of other libraries."""
