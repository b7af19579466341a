"""Where the videos of a published data set lie, whatever folders somebody has sorted them into."""

from __future__ import annotations

import os
from collections.abc import Callable, Container, Iterator
from os.path import basename, dirname, join, splitext
from unicodedata import normalize

from videoswin.data.lists.rows import Row, folded_name
from videoswin.video.listing import VIDEO_SUFFIXES, walk


def find_by_name(root: str, names: Container[str]) -> dict[str, list[str]]:
    """Name -> sorted paths of the videos, or folders of frames, of that name at any depth below `root`.

    Names are without suffix and in Unicode's composed form; those that are nowhere are left out. Folders are
    listed once each, so a quarter of a million videos cost as many look-ups in memory and none on the disk.
    """
    found: dict[str, list[str]] = {}
    for path, name in _videos_and_folders(root, names):
        if name in names:
            found.setdefault(name, []).append(path)
    return {name: sorted(paths) for name, paths in found.items()}


def located(
    rows: list[Row], root: str, names_of: Callable[[str], tuple[str, ...]] = lambda name: (name,)
) -> list[Row]:
    """The rows with their videos wherever these lie below `root`; a row whose video is nowhere stays.

    `names_of` gives the names, best first, under which a video may have been saved. Of several videos of one
    name that which lies in the folder of its class is taken, else the first.
    """
    names = [names_of(_stem(basename(row.path))) for row in rows]
    found = find_by_name(root, {normalize("NFC", name) for several in names for name in several})
    there = [
        next((found[n] for name in several if (n := normalize("NFC", name)) in found), None)
        for several in names
    ]
    return [
        row if paths is None else row._replace(path=_choose(paths, row.labels))
        for row, paths in zip(rows, there, strict=True)
    ]


def _choose(paths: list[str], labels: tuple[str, ...]) -> str:
    """The first path that lies directly in a folder named as one of `labels`; else the first."""
    folders = {folded_name(label) for label in labels}
    return next((path for path in paths if folded_name(basename(dirname(path))) in folders), paths[0])


def _videos_and_folders(root: str, frame_folders: Container[str]) -> Iterator[tuple[str, str]]:
    """(path, name without suffix), in Unicode's composed form; a folder that is named is not entered."""
    for folder, subfolders, files in walk(root or os.curdir):
        here = folder if root else folder.removeprefix(os.curdir).removeprefix(os.sep)
        yield from ((join(here, name), normalize("NFC", name)) for name in subfolders)
        subfolders[:] = [name for name in subfolders if normalize("NFC", name) not in frame_folders]
        for file in files:
            if _stem(file) != file and file[0] != ".":
                yield join(here, file), normalize("NFC", _stem(file))


def _stem(file: str) -> str:
    """The name without the suffix of a video; other dots are part of it."""
    stem, suffix = splitext(file)
    return stem if suffix.lower() in VIDEO_SUFFIXES else file
