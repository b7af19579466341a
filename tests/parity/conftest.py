"""Ours against theirs: makes torchvision importable, which timm imports too; without a peer tests skip."""

import contextlib

from benchmarks.peers import import_torchvision

with contextlib.suppress(ModuleNotFoundError):
    import_torchvision()
