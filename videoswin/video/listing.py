"""Which videos a person means by a list of files, folders and patterns."""

from __future__ import annotations

import glob
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

VIDEO_SUFFIXES: Final = frozenset(
    {".3gp", ".avi", ".flv", ".gif", ".m2ts", ".m4v", ".mkv", ".mov", ".mp4"}
    | {".mpeg", ".mpg", ".mts", ".ogv", ".ts", ".vob", ".webm", ".wmv"}
)


def find_videos(paths: Iterable[str]) -> Iterator[str]:
    """Each path in order: files as they are, folders and patterns as the videos they hold, sorted.

    A folder stands for every video below it, whatever the depth; one with no video file below it stands for
    itself, a folder of frames. A path that is nowhere is passed on, so that whoever opens it reports it;
    ValueError for a pattern that matches nothing.
    """
    for path in paths:
        if Path(path).is_dir():
            yield from _below(path)
        elif glob.has_magic(path) and not Path(path).exists():
            matches = sorted(glob.glob(path, recursive=True))
            if not matches:
                raise ValueError(f"no file matches {path!r}")
            yield from find_videos(matches)
        else:
            yield path


def _below(folder: str) -> list[str]:
    videos = sorted(str(p) for p in Path(folder).rglob("*") if p.suffix.lower() in VIDEO_SUFFIXES)
    return videos or [folder]
