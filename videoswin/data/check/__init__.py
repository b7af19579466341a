"""Checks of labeled videos: decoding in processes, fingerprints, findings, advice and the report."""
