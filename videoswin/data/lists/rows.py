"""Define what every reader of a list shares: its source and rows, parsers of cells, and search for videos."""

from __future__ import annotations

import math
import os
import re
import unicodedata
from collections.abc import Callable, Collection, Container, Iterator
from dataclasses import dataclass
from functools import cached_property
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
"""Name of a split in lists and folders -> name of the split in this package."""


@dataclass(frozen=True)
class ListSource:
    """A list file or a folder to read."""

    path: str
    """The list file or the folder."""
    root: str
    """Folder that the paths of the list are relative to."""
    classes: Collection[str] = ()
    """Known class names; empty if unknown."""

    @cached_property
    def is_folder(self) -> bool:
        """Return whether the source is a folder."""
        return os.path.isdir(self.path)

    @cached_property
    def text(self) -> str:
        """Return the text of the list file.

        Raises:
            InputError: It is not UTF-8, or has NUL bytes.
        """
        return read_text(self.path)

    @cached_property
    def first_line(self) -> str:
        """Return the first nonblank line of the list file; empty for a folder or an empty file."""
        text = "" if self.is_folder else self.text.lstrip()
        return re.split(r"[\r\n]", text, maxsplit=1)[0].strip(" \t")


class Row(NamedTuple):
    """One labeled video, or one labeled part of a video, as read from a list."""

    path: str
    """Video file or folder of frames."""
    labels: tuple[str, ...]
    """Class names, or class indices as text."""
    where: str
    """Location in the list for error messages: `train.csv, line 3`."""
    start_seconds: float | None = None
    """Start of the labeled part in seconds; None means the start of the video."""
    end_seconds: float | None = None
    """End of the labeled part in seconds; None means the end of the video."""
    split: str | None = None
    """`train`, `val` or `test`; None if the list does not specify a split."""
    group: str | None = None
    """Name of the group of samples that must not be split; None if unknown."""


@dataclass(frozen=True, kw_only=True)
class Listing:
    """All rows of one list or folder."""

    source: str
    """The file or folder that was read; one of the files, if the list has several."""
    rows: list[Row]
    """Labeled videos and parts of videos, in the order of the list."""
    classes: tuple[str, ...] | None = None
    """Class names in the order of the dataset; None if the dataset does not define an order."""
    multi_label: bool = False
    """True if a video can have any number of labels."""
    notes: tuple[str, ...] = ()
    """Notes on choices made and rows skipped while reading, one sentence each."""


def folded_name(name: str) -> str:
    """Return a normalized name for comparing classes or folders.

    Names with the same normalized name are the same class: the Unicode form (composed or decomposed), upper
    or lower case, and `_` or spaces make no difference.
    """
    return " ".join(unicodedata.normalize("NFC", name).casefold().replace("_", " ").split())


def require_order(start: float | None, end: float | None, where: str) -> None:
    """Raise InputError for a part of a video whose end is not after its start.

    Args:
        start: Start in seconds; None is the start of the video.
        end: End in seconds; None is the end of the video.
        where: Place in the list, for the message.
    """
    if end is not None and end <= (start or 0.0):
        raise InputError(f"{where}: the end must be > the start ({start or 0.0} s), got {end} s")


def path_below(root: str, path: str) -> str:
    """Return a path of a list below `root`; `~` is the home folder unless there is a file of that name."""
    below = os.path.join(root, path)
    return (
        os.path.join(root, os.path.expanduser(path))
        if path[:1] == "~" and not os.path.exists(below)
        else below
    )


def read_text(path: str) -> str:
    """Read a UTF-8 text file, without its byte order mark.

    Raises:
        InputError: The text is not UTF-8, with line and byte, or has NUL bytes.
    """
    with open(path, "rb") as file:
        content = file.read()
    if content.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise InputError(f"{path}: the text must be UTF-8, got UTF-16: save it as UTF-8")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        before = content[: error.start]
        line, column = before.count(b"\n") + 1, error.start - before.rfind(b"\n")
        raise InputError(
            f"{path}, line {line}, byte {column}: 0x{content[error.start]:02x} is not UTF-8: "
            "is it a text file, and was it saved as UTF-8?"
        ) from error
    if "\0" in text:
        raise InputError(f"{path}: the file must be a list of videos as text, got binary data (NUL bytes)")
    return text


def number_lines(text: str) -> list[tuple[int, str]]:
    """Return the nonblank lines with their numbers, from 1; only \\n, \\r and \\r\\n end a line."""
    lines = enumerate(re.split(r"\r\n|\n|\r", text), 1)
    return [(number, line.strip(" \t")) for number, line in lines if line.strip()]


def read_class_names(path: str) -> tuple[str, ...]:
    """Read the class names of a label map file: one name per line, in the order of the class indices.

    Raises:
        InputError: The file has no class name.
    """
    names = tuple(line for _, line in number_lines(read_text(path)))
    if not names:
        raise InputError(f"{path}: the file must have one class name per line, got an empty file")
    return names


def parse_split(cell: object, where: str) -> str | None:
    """Return `train`, `val` or `test` for the name of a split in a list; None for an empty cell.

    Raises:
        InputError: The name is not in SPLIT_NAMES.
    """
    text = "" if cell is None else str(cell).strip()
    if text and text.lower() not in SPLIT_NAMES:
        raise InputError(f"{where}: the split must be train, val or test, got {text!r}")
    return SPLIT_NAMES[text.lower()] if text else None


def parse_seconds(cell: object, where: str) -> float | None:
    """Return a time in seconds from seconds, `mm:ss` or `hh:mm:ss`; None for an empty cell.

    Raises:
        InputError: The cell is none of these, negative or infinite.
    """
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
    """Find videos, or folders of frames, by name at any depth below `root`.

    Each folder is listed once, so 250,000 videos cost as many look-ups in memory and none on the disk.

    Args:
        root: Folder to search; empty means the working directory.
        names: Names without suffix, in Unicode's composed form.

    Returns:
        Name -> sorted paths; names that are not found are left out.
    """
    found: dict[str, list[str]] = {}
    for path, name in _videos_and_folders(root, names):
        if name in names:
            found.setdefault(name, []).append(path)
    return {name: sorted(paths) for name, paths in found.items()}


def resolve_path(
    rows: list[Row], root: str, names_of: Callable[[str], tuple[str, ...]] = lambda name: (name,)
) -> list[Row]:
    """Return the rows with the paths of their videos found by name below `root`.

    Args:
        rows: Rows of a list; a row whose video is not found is returned unchanged.
        root: Folder to search, at any depth.
        names_of: Returns the possible names of a video, best first. Of several videos of one name, the one in
            the folder of its class is chosen, else the first.
    """
    names = [names_of(_stem(basename(row.path))) for row in rows]
    found = find_by_name(root, {normalize("NFC", name) for candidates in names for name in candidates})
    paths_of_rows = [
        next((found[n] for name in candidates if (n := normalize("NFC", name)) in found), None)
        for candidates in names
    ]
    return [
        row if paths is None else row._replace(path=_choose_path(paths, row.labels))
        for row, paths in zip(rows, paths_of_rows, strict=True)
    ]


def _choose_path(paths: list[str], labels: tuple[str, ...]) -> str:
    """Return the first path directly in a folder with the name of one of `labels`; else the first path."""
    folders = {folded_name(label) for label in labels}
    return next((path for path in paths if folded_name(basename(dirname(path))) in folders), paths[0])


def _videos_and_folders(root: str, frame_folders: Container[str]) -> Iterator[tuple[str, str]]:
    """Yield (path, name without suffix in NFC) of videos and folders; `frame_folders` are not entered."""
    for folder, subfolders, files in walk(root or os.curdir):
        here = folder if root else folder.removeprefix(os.curdir).removeprefix(os.sep)
        yield from ((join(here, name), normalize("NFC", name)) for name in subfolders)
        subfolders[:] = [name for name in subfolders if normalize("NFC", name) not in frame_folders]
        for file in files:
            if _stem(file) != file and file[0] != ".":
                yield join(here, file), normalize("NFC", _stem(file))


def _stem(file: str) -> str:
    """Return the name without the suffix of a video; other dots are part of the name."""
    stem, suffix = splitext(file)
    return stem if suffix.lower() in VIDEO_SUFFIXES else file
