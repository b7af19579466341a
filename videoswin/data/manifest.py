"""Labelled videos as one table, whatever kind of list or folder they come from."""

from __future__ import annotations

import os
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Sample:
    """One labelled video, or a part of one."""

    path: str
    """File, or folder of frames; absolute, or relative to the working directory."""
    labels: tuple[int, ...]
    """Indices into the manifest's classes: exactly one, unless the manifest is multi-label."""
    start_seconds: float | None = None
    """Where the labelled part begins; None is the beginning of the video."""
    end_seconds: float | None = None
    """Where it ends; None is the end of the video."""
    split: str | None = None
    """`train`, `val`, `test`, or None where the list does not say."""


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """Labelled videos and the names of their classes."""

    source: str
    """The folder or file that was read."""
    classes: tuple[str, ...]
    """Sorted names, or those given by the dataset in its own order; a label is an index into them."""
    samples: tuple[Sample, ...]
    multi_label: bool = False
    """True if a video can have any number of labels."""

    @property
    def splits(self) -> tuple[str, ...]:
        """The splits that samples name, sorted; empty if none does."""
        raise NotImplementedError

    def part(self, split: str) -> Manifest:
        """The samples of one split, with the same classes. ValueError if there are none."""
        raise NotImplementedError

    @property
    def digest(self) -> str:
        """SHA-256 of what is asked about: file names, parts, labels and classes, in order; not of folders."""
        raise NotImplementedError


def read_manifest(
    path: str | os.PathLike[str],
    *,
    root: str | os.PathLike[str] | None = None,
    classes: tuple[str, ...] | None = None,
) -> Manifest:
    """The labelled videos of a folder or list in any known form, recognised by its contents."""
    raise NotImplementedError


def hold_out(manifest: Manifest, part: float, *, seed: int) -> tuple[Manifest, Manifest]:
    """(the rest, the held-out): `part` of each class, the same for the same seed."""
    raise NotImplementedError
