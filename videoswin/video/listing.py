"""Which videos a person means by a list of files, folders and patterns."""

from __future__ import annotations

import glob
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

from videoswin.video.reader import IMAGE_SUFFIXES

VIDEO_SUFFIXES: Final = frozenset(
    {".3gp", ".avi", ".flv", ".gif", ".m2ts", ".m4v", ".mkv", ".mov", ".mp4"}
    | {".mpeg", ".mpg", ".mts", ".ogv", ".ts", ".vob", ".webm", ".wmv"}
)


def find_videos(paths: Iterable[str]) -> Iterator[str]:
    """Each path in order: files as they are, folders and patterns as the videos they hold, sorted.

    A folder stands for every video below it, whatever the depth, or for the folders of frames below it if
    there are none; what is hidden does not count. A path that is nowhere and a pattern that matches nothing
    are passed on, so that whoever opens them reports them.
    """
    for path in paths:
        if Path(path).is_dir():
            yield from _below(path)
        elif glob.has_magic(path) and glob.glob(path, recursive=True) and not Path(path).exists():
            # `**` matches a folder and what is in it: each video once.
            yield from dict.fromkeys(find_videos(sorted(glob.glob(path, recursive=True))))
        else:
            yield path


def _below(folder: str) -> list[str]:
    seen = [p for p in Path(folder).rglob("*") if not _is_hidden(p.relative_to(folder))]
    videos = {str(p) for p in seen if p.suffix.lower() in VIDEO_SUFFIXES}
    frame_folders = {str(p.parent) for p in seen if p.suffix.lower() in IMAGE_SUFFIXES}
    return sorted(videos or frame_folders or {folder})


def _is_hidden(path: Path) -> bool:
    return any(part.startswith(".") for part in path.parts)
