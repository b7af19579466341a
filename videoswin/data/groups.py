"""Groups of videos that must not be split between training and validation: the same person, place or film.

A model that is validated on the people and places it was trained on looks better than it is. Groups come from
the `group` column of a list, or from the names of folders and files.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from dataclasses import replace

from videoswin._errors import InputError
from videoswin.data.manifest import Manifest, Sample


def group_by_folder(manifest: Manifest, *, level: int = 1) -> Manifest:
    """Return the manifest with the name of a folder as the group of each sample.

    Args:
        manifest: Any labeled videos; groups that they have are replaced.
        level: Which folder: 1 is the one that the file lies in, 2 the one above it, and so on. Folders of one
            name are one group, wherever they are: `walk/kitchen/a.mp4` and `run/kitchen/b.mp4`.

    Raises:
        InputError: The folder of some sample has no name, or the folders are just those of the classes.
    """
    if level < 1:
        raise InputError(f"level must be >= 1, got {level}")

    def folder(sample: Sample) -> str:
        names = os.path.abspath(sample.path).split(os.sep)[1:-1]
        if len(names) < level:
            raise InputError(f"{sample.path}: there is no folder {level} levels above it: lower the level")
        return names[-level]

    grouped = _with_groups(manifest, folder)
    pairs = {(sample.group, sample.labels) for sample in grouped.samples}
    groups, labels = ({pair[side] for pair in pairs} for side in (0, 1))
    if len(pairs) == len(groups) == len(labels) > 1:
        raise InputError(
            f"{manifest.source}: level {level} gives the folders of the classes, which both sides of a "
            "split need: choose another level, or group by a pattern on names"
        )
    return grouped


def group_by_pattern(manifest: Manifest, pattern: str) -> Manifest:
    r"""Return the manifest with a part of the file name as the group of each sample.

    Args:
        manifest: Any labeled videos; groups that they have are replaced.
        pattern: A regular expression that is searched in the name of each file or folder of frames, suffix
            included. The group is what its parentheses match, joined by a space, or else the whole match:
            `_(g\d+)_` finds `g08` in `v_Archery_g08_c01.avi`.

    Raises:
        InputError: The pattern is no regular expression, or is not found in some name.
    """
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        raise InputError(f"{pattern!r} is not a regular expression: {error}") from error
    names = [os.path.basename(os.path.normpath(sample.path)) for sample in manifest.samples]
    if missing := [name for name in names if not compiled.search(name)]:
        raise InputError(
            f"the pattern {pattern!r} must match every name, got {len(missing)} of {len(names)} without a "
            f"match, such as {missing[0]!r}"
        )

    def part(sample: Sample) -> str:
        match = compiled.search(os.path.basename(os.path.normpath(sample.path)))
        assert match is not None
        return " ".join(text for text in match.groups() if text) or match[0]

    return _with_groups(manifest, part)


def _with_groups(manifest: Manifest, group_of: Callable[[Sample], str]) -> Manifest:
    samples = tuple(replace(sample, group=group_of(sample).strip() or None) for sample in manifest.samples)
    return replace(manifest, samples=samples)
