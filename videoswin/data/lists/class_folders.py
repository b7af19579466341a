"""A folder for each class, with videos or folders of frames in it, and perhaps folders of splits above."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping
from typing import Final
from unicodedata import normalize

from videoswin._errors import InputError
from videoswin.data.lists.rows import SPLIT_NAMES, Listing, Row
from videoswin.video.listing import VIDEO_SUFFIXES, count_suffixes, look_below, say_left_out

_LISTS: Final = frozenset({".csv", ".tsv", ".txt", ".json", ".jsonl", ".parquet"})

# A folder with nothing else in it is no class. Anything else may be a video of a kind that is not known.
_DOCUMENT_SUFFIXES: Final = frozenset(
    {".cfg", ".csv", ".doc", ".docx", ".html", ".ini", ".ipynb", ".json", ".jsonl", ".log", ".md", ".npy"}
    | {".npz", ".parquet", ".pdf", ".pkl", ".pth", ".py", ".rst", ".sh", ".srt", ".toml", ".tsv", ".txt"}
    | {".vtt", ".xlsx", ".xml", ".yaml", ".yml"}
)


def read_class_folders(folder: str) -> Listing:
    """The videos below each class folder, at any depth, or its folders of frames if it has no videos.

    `train/`, `val/` (`validation/`) and `test/` above the classes are splits. What is hidden does not count,
    nor do folders of documents. Notes say which files are left out. InputError for videos outside every class
    folder, for splits beside other folders with videos, and for a class in which no video is found.
    """
    splits: Mapping[str, str | None] = _split_folders(folder) or {folder: None}
    rows: list[Row] = []
    empty: dict[str, str] = {}
    left_out: Counter[str] = Counter()
    examples: list[str] = []
    for above, split in splits.items():
        _refuse_loose_videos(above)
        for name in _subfolders(above):
            label = normalize("NFC", name)
            here = os.path.join(above, name)
            videos, others, example = look_below(here)
            rows += [Row(path, (label,), path, split=split) for path in videos]
            left_out += others
            examples += [example] if example else []
            if not videos and not others.keys() <= _DOCUMENT_SUFFIXES:
                empty[label] = (
                    f"{here}: none of its files is known to be a video: {count_suffixes(others)}; "
                    "convert them, or move the folder away if it is no class"
                )
            elif not videos and not os.listdir(here):
                empty[label] = f"{here}: the class folder is empty: put videos into it, or remove it"
    for label in sorted(empty.keys() - {row.labels[0] for row in rows}):
        raise InputError(empty[label])
    if not rows:
        raise InputError(
            f"{folder}: found no folder with videos in it, wanted one for each class; "
            f"for a list of videos give the file{_lists_in(folder)}"
        )
    # Said outright, or folders called 1 and 2 would be taken for indices.
    classes = tuple(sorted({row.labels[0] for row in rows}))
    notes = [say_left_out(left_out, examples[0])] if left_out else []
    for above in splits:
        # As in data sets of Hugging Face, whose folders need not be classes.
        if lists := _named(above, _LISTS, start="metadata."):
            notes.append(
                f"labels are names of folders; to use {os.path.join(above, lists[0])} give that file"
            )
    return Listing(source=folder, rows=rows, classes=classes, notes=tuple(notes))


def _split_folders(folder: str) -> dict[str, str]:
    """Folders of splits -> their names here; empty if the classes lie directly in `folder`."""
    named = [name for name in _subfolders(folder) if name.lower() in SPLIT_NAMES]
    if not named:
        return {}
    others = (name for name in _subfolders(folder) if name not in named)
    other = next((name for name in others if look_below(os.path.join(folder, name)).videos), None)
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
            f"({len(loose)} in {folder} are not): move it into one, or away; "
            f"for a list of videos give the file{_lists_in(folder)}"
        )


def _loose_videos(folder: str) -> list[str]:
    return _named(folder, VIDEO_SUFFIXES)


def _named(folder: str, suffixes: frozenset[str], start: str = "") -> list[str]:
    """Names of files directly in `folder` that have one of these suffixes, and begin with `start`."""
    with os.scandir(folder) as entries:
        return sorted(
            entry.name
            for entry in entries
            if os.path.splitext(entry.name)[1].lower() in suffixes
            and entry.name[0] != "."
            and entry.name.startswith(start)
            and entry.is_file()
        )


def _subfolders(folder: str) -> list[str]:
    with os.scandir(folder) as entries:
        return sorted(entry.name for entry in entries if entry.is_dir() and entry.name[0] != ".")


def _lists_in(folder: str) -> str:
    lists = _named(folder, _LISTS)
    return f", perhaps {os.path.join(folder, lists[0])}" if lists else ""
