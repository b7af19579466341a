"""Labeled videos: manifests, list formats, groups, training clips and the data checker."""
