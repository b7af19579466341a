"""A folder for each class, with videos or folders of frames in it, and perhaps folders of splits above."""

from __future__ import annotations

import os
import re
import shlex
from collections import Counter
from collections.abc import Mapping
from typing import Final
from unicodedata import normalize

from videoswin._errors import InputError
from videoswin.data.lists.rows import SPLIT_NAMES, Listing, Row
from videoswin.video.listing import VIDEO_SUFFIXES, count_suffixes, look_below, report_skipped

_LISTS: Final = frozenset({".csv", ".tsv", ".txt", ".json", ".jsonl", ".parquet"})

_SPLIT_LIKE: Final = re.compile(
    r"(train|training|val|valid|validation|dev|eval|evaluation|test|testing)"
    r"([ _-]?(set|data|videos?|clips?|split|\d+))?",
    re.IGNORECASE,
)

# Folders that data sets keep beside those of the classes. Documents in a folder of another name are an error.
_NO_CLASSES: Final = frozenset(
    {"annotation", "annotations", "code", "config", "configs", "doc", "docs", "documentation", "labels"}
    | {"license", "licenses", "lists", "logs", "meta", "metadata", "notes", "scripts", "splits", "tools"}
)
_DOCUMENT_SUFFIXES: Final = frozenset(
    {".cfg", ".csv", ".doc", ".docx", ".html", ".ini", ".ipynb", ".json", ".jsonl", ".log", ".md", ".npy"}
    | {".npz", ".parquet", ".pdf", ".pkl", ".pth", ".py", ".rst", ".sh", ".srt", ".toml", ".tsv", ".txt"}
    | {".vtt", ".xlsx", ".xml", ".yaml", ".yml"}
)


def read_class_folders(folder: str) -> Listing:
    """The videos below each class folder, at any depth, or its folders of frames if it has no videos.

    `train/`, `val/` (`validation/`) and `test/` above the classes are splits. What is hidden does not count,
    nor do folders of documents with a name such as `docs` or `annotations`. Notes say which files are left
    out. InputError for videos outside every class folder, for splits beside other folders with videos, and
    for a class in which no video is found.
    """
    splits: Mapping[str, str | None] = _split_folders(folder) or {folder: None}
    rows: list[Row] = []
    empty: dict[str, str] = {}
    left_out: Counter[str] = Counter()
    examples: list[str] = []
    _refuse_loose_videos(splits)
    for above in splits:
        split = splits[above]
        for name in _subfolders(above):
            label = normalize("NFC", name)
            here = os.path.join(above, name)
            videos, others, example = look_below(here)
            rows += [Row(path, (label,), path, split=split) for path in videos]
            left_out += others
            examples += [example] if example else []
            is_documentation = name.lower() in _NO_CLASSES and others.keys() <= _DOCUMENT_SUFFIXES
            if not videos and others and not is_documentation:
                empty[label] = (
                    f"{here}: none of its files is known to be a video: {count_suffixes(others)}; "
                    "put videos into it, or move the folder away if it is no class"
                )
            elif not videos and not others:
                empty[label] = f"{here}: the class folder is empty: put videos into it, or remove it"
    unseen = sorted(empty.keys() - {row.labels[0] for row in rows})
    for label in unseen if rows or not _lists_in(folder) else ():
        raise InputError(empty[label])
    if not rows:
        raise InputError(
            f"{folder}: found no folder with videos in it, wanted one for each class; "
            f"for a list of videos give the file{_lists_in(folder)}"
        )
    # Said outright, or folders called 1 and 2 would be taken for indices.
    classes = tuple(sorted({row.labels[0] for row in rows}))
    notes = [report_skipped(left_out, examples[0])] if left_out else []
    for above in splits:
        # As in data sets of Hugging Face, whose folders need not be classes.
        if lists := _named(above, _LISTS, start="metadata."):
            notes.append(
                f"labels are names of folders; to use {os.path.join(above, lists[0])} give that file"
            )
    return Listing(source=folder, rows=rows, classes=classes, notes=tuple(notes))


def _split_folders(folder: str) -> dict[str, str]:
    """Folders of splits -> their names here; empty if the classes lie directly in `folder`."""
    _refuse_unknown_splits(folder)
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


def _refuse_unknown_splits(folder: str) -> None:
    """Raise InputError for folders called like `train_set` and `dev` that have the same folders in them."""
    names = _subfolders(folder)
    known = [name for name in names if name.lower() in SPLIT_NAMES]
    if len(names) < 2 or known == names or not all(map(_SPLIT_LIKE.fullmatch, names)):
        return
    inside = [set(_subfolders(os.path.join(folder, name))) for name in names]
    if shared := sorted(set.intersection(*inside)):
        first, last = ([name for name in names if name.lower().startswith(s)] for s in ("train", "test"))
        in_order = [*first, *(name for name in names if name not in {*first, *last}), *last]
        train, val = (shlex.quote(os.path.join(folder, name)) for name in in_order[:2])
        raise InputError(
            f"{folder}: {', '.join(names)} look like splits, as each holds {', '.join(shared[:3])}: rename "
            f"them to train, val and test, or give --data {train} --set data.val={val}"
        )


def _refuse_loose_videos(folders: Mapping[str, str | None]) -> None:
    """Raise InputError for videos beside class folders, with the list to give instead, if one is there."""
    for folder in folders:
        if loose := _loose_videos(folder):
            raise InputError(
                f"{os.path.join(folder, loose[0])}: the video is in no class folder "
                f"({len(loose)} in {folder}): move it into one, or away; "
                f"for a list of videos give the file{_lists_of_splits(folders) or _lists_in(folder)}"
            )


def _lists_of_splits(folders: Mapping[str, str | None]) -> str:
    """The settings for a list in each folder of a split, as data sets of Hugging Face have them."""
    lists = {
        split: os.path.join(folder, names[0])
        for folder, split in folders.items()
        if split and (names := _named(folder, _LISTS, start="metadata."))
    }
    if "train" not in lists:
        return ""
    text = f"s: to train, --data {shlex.quote(lists['train'])}"
    if "val" in lists:
        text += f" --set data.val={shlex.quote(lists['val'])}"
    return text + (f"; to evaluate, {shlex.quote(lists['test'])}" if "test" in lists else "")


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
