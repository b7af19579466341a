"""Where the videos of a published data set lie, whatever folders somebody has sorted them into."""

from __future__ import annotations

import os
from collections.abc import Container, Iterator
from os.path import basename, dirname, join, splitext

from videoswin.data.lists.rows import Row
from videoswin.video.listing import VIDEO_SUFFIXES


def find_by_name(root: str, names: Container[str]) -> dict[str, list[str]]:
    """Name -> sorted paths of the videos, or folders of frames, of that name at any depth below `root`.

    Names are without suffix; those that are nowhere are left out. Folders are listed once each, so a quarter
    of a million videos cost as many look-ups in memory and none on the disk.
    """
    found: dict[str, list[str]] = {}
    for path, name in _videos_and_folders(root, names):
        if name in names:
            found.setdefault(name, []).append(path)
    return {name: sorted(paths) for name, paths in found.items()}


def located(rows: list[Row], root: str) -> list[Row]:
    """The rows with their videos wherever these lie below `root`; a row whose video is nowhere stays.

    Of several videos of one name that which lies in the folder of its class is taken, else the first.
    """
    names = [splitext(basename(row.path))[0] for row in rows]
    found = find_by_name(root, set(names))
    return [
        row._replace(path=_choose(found[name], row.labels[0])) if name in found else row
        for row, name in zip(rows, names, strict=True)
    ]


def _choose(paths: list[str], folder: str) -> str:
    """The first path that lies directly in `folder`, with spaces or underscores; else the first."""
    wanted = folder.replace(" ", "_")
    return next((path for path in paths if basename(dirname(path)).replace(" ", "_") == wanted), paths[0])


def _videos_and_folders(root: str, frame_folders: Container[str]) -> Iterator[tuple[str, str]]:
    """(path, name without suffix); links are followed, but no folder is entered twice, nor a wanted one."""
    entered = set()
    for folder, subfolders, files in os.walk(root or os.curdir, followlinks=True):
        status = os.stat(folder)
        if (status.st_dev, status.st_ino) in entered:
            subfolders.clear()
            continue
        entered.add((status.st_dev, status.st_ino))
        here = folder if root else folder.removeprefix(os.curdir).removeprefix(os.sep)
        yield from ((join(here, name), name) for name in subfolders)
        subfolders[:] = [name for name in subfolders if name not in frame_folders and name[0] != "."]
        for file in files:
            name, suffix = splitext(file)
            if suffix.lower() in VIDEO_SUFFIXES and file[0] != ".":
                yield join(here, file), name
