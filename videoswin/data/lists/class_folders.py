"""A folder for each class, with videos or folders of frames in it, and perhaps folders of splits above."""

from __future__ import annotations

import os
from collections.abc import Mapping

from videoswin._errors import InputError
from videoswin.data.lists.rows import SPLIT_NAMES, Listing, Row
from videoswin.video.listing import VIDEO_SUFFIXES, find_videos
from videoswin.video.reader import IMAGE_SUFFIXES


def read_class_folders(folder: str) -> Listing:
    """The videos below each class folder, at any depth, or its folders of frames if it has no videos.

    `train/`, `val/` (`validation/`) and `test/` above the classes are splits. What is hidden does not count,
    nor do folders that hold neither videos nor images. ValueError for videos outside every class folder, for
    splits beside other folders with videos, and for a class that is empty.
    """
    splits: Mapping[str, str | None] = _split_folders(folder) or {folder: None}
    rows: list[Row] = []
    empty: dict[str, str] = {}
    for above, split in splits.items():
        _refuse_loose_videos(above)
        for name in _subfolders(above):
            videos = _videos_of(os.path.join(above, name))
            rows += [Row(path, (name,), path, split=split) for path in videos]
            if not os.listdir(os.path.join(above, name)):
                empty[name] = os.path.join(above, name)
    if not rows:
        raise InputError(
            f"{folder}: found no folder with videos in it, wanted one for each class; "
            f"for a list of videos give the file{_lists_in(folder)}"
        )
    for name in sorted(empty.keys() - {row.labels[0] for row in rows}):
        raise InputError(f"{empty[name]}: the class folder is empty: put videos into it, or remove it")
    # Said outright, or folders called 1 and 2 would be taken for indices.
    return Listing(source=folder, rows=rows, classes=tuple(sorted({row.labels[0] for row in rows})))


def _split_folders(folder: str) -> dict[str, str]:
    """Folders of splits -> their names here; empty if the classes lie directly in `folder`."""
    named = [name for name in _subfolders(folder) if name.lower() in SPLIT_NAMES]
    if not named:
        return {}
    others = (name for name in _subfolders(folder) if name not in named)
    other = next((name for name in others if _videos_of(os.path.join(folder, name))), None)
    if other is None:
        return {os.path.join(folder, name): SPLIT_NAMES[name.lower()] for name in named}
    # A class may be called "train". A folder of that name with its videos in further folders is a split.
    for name in named:
        if not _loose_videos(os.path.join(folder, name)):
            raise InputError(
                f"{folder}: {name!r} looks like a split, but {other!r} stands beside it and does not: "
                "have only folders of splits there, or only folders of classes"
            )
    return {}


def _refuse_loose_videos(folder: str) -> None:
    if loose := _loose_videos(folder):
        raise InputError(
            f"{os.path.join(folder, loose[0])}: the video is in no class folder "
            f"({len(loose)} in {folder} are not): move it into one, or away"
        )


def _videos_of(folder: str) -> list[str]:
    """Every video below, else every folder of frames; `find_videos` gives the folder itself for nothing."""
    videos = list(find_videos([folder]))
    return [] if videos == [folder] and not _named(folder, IMAGE_SUFFIXES) else videos


def _loose_videos(folder: str) -> list[str]:
    return _named(folder, VIDEO_SUFFIXES)


def _named(folder: str, suffixes: frozenset[str]) -> list[str]:
    """Names of files directly in `folder` that have one of these suffixes."""
    with os.scandir(folder) as entries:
        return sorted(
            entry.name
            for entry in entries
            if os.path.splitext(entry.name)[1].lower() in suffixes
            and entry.name[0] != "."
            and entry.is_file()
        )


def _subfolders(folder: str) -> list[str]:
    with os.scandir(folder) as entries:
        return sorted(entry.name for entry in entries if entry.is_dir() and entry.name[0] != ".")


def _lists_in(folder: str) -> str:
    lists = _named(folder, frozenset({".csv", ".tsv", ".txt", ".json", ".parquet"}))
    return f", perhaps {os.path.join(folder, lists[0])}" if lists else ""
