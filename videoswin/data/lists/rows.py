"""Where the videos of a published data set lie, whatever folders somebody has sorted them into."""

from __future__ import annotations

import math
import os
import re
import unicodedata
from collections.abc import Callable, Container, Iterator
from dataclasses import dataclass
from os.path import basename, dirname, join, splitext
from types import MappingProxyType
from typing import Final, NamedTuple
from unicodedata import normalize

from videoswin._errors import InputError
from videoswin.video.listing import VIDEO_SUFFIXES, walk

SPLIT_NAMES: Final = MappingProxyType(
    {"train": "train", "training": "train", "test": "test", "testing": "test"}
    | {"val": "val", "valid": "val", "validate": "val", "validation": "val"}
)
"""What lists and folders call a split -> what it is called here."""


class Row(NamedTuple):
    """One labeled video, or part of one."""

    path: str
    labels: tuple[str, ...]
    """Names of classes, or numbers."""
    where: str
    """For error messages: `train.csv, line 3`."""
    start_seconds: float | None = None
    end_seconds: float | None = None
    split: str | None = None
    group: str | None = None


@dataclass(frozen=True, kw_only=True)
class Listing:
    """All rows of one list or folder."""

    source: str
    """What was read: one of several files, if the list has more than one."""
    rows: list[Row]
    classes: tuple[str, ...] | None = None
    """The names in the order that the data set gives them; None if it gives none."""
    multi_label: bool = False
    notes: tuple[str, ...] = ()
    """What was decided or left out in reading, a sentence each."""


def folded_name(name: str) -> str:
    """Return a name without the differences that do not make another class or folder.

    These are Unicode's composed and decomposed forms, upper and lower case, `_` and spaces.
    """
    return " ".join(unicodedata.normalize("NFC", name).casefold().replace("_", " ").split())


def require_order(start: float | None, end: float | None, where: str) -> None:
    """InputError for a part of a video that ends before it begins."""
    if end is not None and end <= (start or 0.0):
        raise InputError(f"{where}: found {end} s, wanted more than the start, {start or 0.0} s")


def path_below(root: str, path: str) -> str:
    """Return the path of a list's entry, where `~` is the home folder unless there is a file of that name."""
    below = os.path.join(root, path)
    return (
        os.path.join(root, os.path.expanduser(path))
        if path[:1] == "~" and not os.path.exists(below)
        else below
    )


def read_text(path: str) -> str:
    """The UTF-8 text of a file, without a byte order mark. ValueError with the place of what is not UTF-8."""
    with open(path, "rb") as file:
        content = file.read()
    if content.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise InputError(f"{path}: the text is UTF-16, wanted UTF-8: save it anew as that")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        before = content[: error.start]
        line, column = before.count(b"\n") + 1, error.start - before.rfind(b"\n")
        raise InputError(
            f"{path}, line {line}, byte {column}: 0x{content[error.start]:02x} is not UTF-8: "
            "is it a text, and was it saved as UTF-8?"
        ) from error
    if "\0" in text:
        raise InputError(f"{path}: it holds zero bytes, wanted a list of videos as text")
    return text


def numbered_lines(text: str) -> list[tuple[int, str]]:
    """Lines that are not blank, numbered from 1; only line feeds and carriage returns end a line."""
    lines = enumerate(re.split(r"\r\n|\n|\r", text), 1)
    return [(number, line.strip(" \t")) for number, line in lines if line.strip()]


def read_class_names(path: str) -> tuple[str, ...]:
    """The names of a label map file: one a line, in the order of their numbers. ValueError if it is empty."""
    names = tuple(line for _, line in numbered_lines(read_text(path)))
    if not names:
        raise InputError(f"{path}: it is empty, wanted one class name a line")
    return names


def split_name(cell: object, where: str) -> str | None:
    """`train`, `val` or `test` for what a list calls it; None for an empty cell."""
    text = "" if cell is None else str(cell).strip()
    if text and text.lower() not in SPLIT_NAMES:
        raise InputError(f"{where}: found {text!r}, wanted train, val or test")
    return SPLIT_NAMES[text.lower()] if text else None


def seconds(cell: object, where: str) -> float | None:
    """A time in seconds, of seconds, `mm:ss` or `hh:mm:ss`; None for an empty cell."""
    if cell is None or cell == "":
        return None
    clock = re.fullmatch(r"\s*(?:(\d{1,9}):)?(\d{1,9}):([0-5]?\d(?:\.\d*)?)\s*", str(cell))
    try:
        time = float(str(cell))
    except ValueError:
        time = math.nan
    if clock is not None:
        time = 3600 * int(clock[1] or 0) + 60 * int(clock[2]) + float(clock[3])
    if not 0 <= time < math.inf:
        raise InputError(f"{where}: the time must be seconds, mm:ss or hh:mm:ss, got {cell!r}")
    return time


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


def resolve_path(
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
