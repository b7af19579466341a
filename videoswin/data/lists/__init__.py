"""Read lists and folders of labeled videos in any supported format: read_listing.

To add a format, write one function that reads it into a Listing, and add one entry to FORMATS.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection
from typing import Final, NamedTuple

from videoswin._errors import InputError
from videoswin.data.lists.class_folders import read_class_folders
from videoswin.data.lists.json_lists import is_json, read_json_list
from videoswin.data.lists.rows import Listing, ListSource, number_lines
from videoswin.data.lists.tables import is_csv, is_parquet, read_csv, read_parquet
from videoswin.data.lists.text_lists import (
    is_hmdb51,
    is_number_list,
    is_ucf101,
    read_hmdb51,
    read_number_list,
    read_ucf101,
)
from videoswin.video.listing import VIDEO_SUFFIXES


class ListFormat(NamedTuple):
    """A format of lists or folders."""

    description: str
    """What it is, for the message about an unknown format."""
    matches: Callable[[ListSource], bool]
    """Returns whether a source is of this format, if it is of none before."""
    read: Callable[[ListSource], Listing]
    """Reads the rows; raises InputError if the list is invalid."""


FORMATS: Final = (
    ListFormat("the split files of UCF101", is_ucf101, read_ucf101),
    ListFormat("the split files of HMDB51", is_hmdb51, read_hmdb51),
    ListFormat("a folder with one folder per class", lambda source: source.is_folder, read_class_folders),
    ListFormat("a Parquet table with the columns path and label", is_parquet, read_parquet),
    ListFormat(
        "JSON of Something-Something, Diving48, ActivityNet, Label Studio, FiftyOne or objects with path and "
        "label (metadata.jsonl)",
        is_json,
        read_json_list,
    ),
    ListFormat(
        "CSV or TSV with a header: path,label (start, end, split and group are optional) or that of Kinetics",
        is_csv,
        read_csv,
    ),
    ListFormat(
        "'path label', 'path frames label' or 'path start frames label' lines of MMAction2, GluonCV and "
        "VideoMAE",
        is_number_list,
        read_number_list,
    ),
)
"""All formats; the first that matches a source reads it."""


def read_listing(path: str, root: str | None, classes: Collection[str]) -> Listing:
    """Read the rows of a list or folder of any format.

    Args:
        path: List file or folder.
        root: Folder that the paths are relative to; None means the folder of the list.
        classes: Known class names; empty if unknown.

    Raises:
        InputError: The format is none of FORMATS, or the list is invalid.
    """
    if os.path.splitext(path)[1].lower() in VIDEO_SUFFIXES and os.path.isfile(path):
        raise InputError(f"{path}: the path must be a list or a folder of videos, got a video file")
    folder = path if os.path.isdir(path) else os.path.dirname(path)
    source = ListSource(path, folder if root is None else root, classes)
    for format in FORMATS:
        if format.matches(source):
            return format.read(source)
    if not source.first_line:
        raise InputError(f"{path}: the list must have at least one video, got an empty file")
    number, _ = number_lines(source.text)[0]
    known = "; ".join(format.description for format in reversed(FORMATS))  # the simplest ones first
    raise InputError(
        f"{path}, line {number}: the first line must be that of a known list format, got "
        f"{source.first_line[:80]!r}; known formats: {known}"
    )
