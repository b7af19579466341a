"""Read class folders: one folder of videos or frame folders per class, optionally below split folders."""

from __future__ import annotations

import os
import re
import shlex
from collections import Counter
from collections.abc import Mapping
from typing import Final
from unicodedata import normalize

from videoswin._errors import InputError
from videoswin._text import first_few
from videoswin.data.lists.rows import SPLIT_NAMES, Listing, ListSource, Row
from videoswin.video.listing import VIDEO_SUFFIXES, count_suffixes, report_skipped, scan_folder

_LISTS: Final = frozenset({".csv", ".tsv", ".txt", ".json", ".jsonl", ".parquet"})

_SPLIT_LIKE: Final = re.compile(
    r"(train|training|val|valid|validation|dev|eval|evaluation|test|testing)"
    r"([ _-]?(set|data|videos?|clips?|split|\d+))?",
    re.IGNORECASE,
)

# Folders that datasets keep beside those of the classes. Documents in a folder of another name are an error.
_NO_CLASSES: Final = frozenset(
    {"annotation", "annotations", "code", "config", "configs", "doc", "docs", "documentation", "labels"}
    | {"license", "licenses", "lists", "logs", "meta", "metadata", "notes", "scripts", "splits", "tools"}
)
_DOCUMENT_SUFFIXES: Final = frozenset(
    {".cfg", ".csv", ".doc", ".docx", ".html", ".ini", ".ipynb", ".json", ".jsonl", ".log", ".md", ".npy"}
    | {".npz", ".parquet", ".pdf", ".pkl", ".pth", ".py", ".rst", ".sh", ".srt", ".toml", ".tsv", ".txt"}
    | {".vtt", ".xlsx", ".xml", ".yaml", ".yml"}
)


def read_class_folders(source: ListSource) -> Listing:
    """Read the videos below each class folder, at any depth, or its folders of frames if it has no videos.

    `train/`, `val/` (`validation/`) and `test/` above the classes are splits. Hidden files and folders are
    ignored, and so are folders of documents with a name such as `docs` or `annotations`.

    Args:
        source: Folder with the class folders, or with split folders above them.

    Returns:
        The rows; notes list the skipped files.

    Raises:
        InputError: A video is outside of all class folders, a split folder is beside other folders with
            videos, or a class has no video.
    """
    folder = source.path
    splits: Mapping[str, str | None] = _split_folders(folder) or {folder: None}
    rows: list[Row] = []
    empty: dict[str, str] = {}
    skipped: Counter[str] = Counter()
    examples: list[str] = []
    _reject_loose_videos(splits)
    for above in splits:
        split = splits[above]
        for name in _subfolders(above):
            label = normalize("NFC", name)
            here = os.path.join(above, name)
            videos, others, example = scan_folder(here)
            rows += [Row(path, (label,), path, split=split) for path in videos]
            skipped += others
            examples += [example] if example else []
            is_documentation = name.lower() in _NO_CLASSES and others.keys() <= _DOCUMENT_SUFFIXES
            if not videos and others and not is_documentation:
                empty[label] = (
                    f"{here}: none of its files has the suffix of a video: {count_suffixes(others)}; "
                    "add videos, or move the folder away if it is not a class"
                )
            elif not videos and not others:
                empty[label] = f"{here}: the class folder is empty: add videos, or remove it"
    missing = sorted(empty.keys() - {row.labels[0] for row in rows})
    for label in missing if rows or not _suggest_list(folder) else ():
        raise InputError(empty[label])
    if not rows:
        raise InputError(
            f"{folder}: the folder must have one folder with videos for each class, got none; "
            f"to use a list of videos, pass the list file{_suggest_list(folder)}"
        )
    # Explicit classes: folders named 1 and 2 would otherwise be interpreted as class indices.
    classes = tuple(sorted({row.labels[0] for row in rows}))
    notes = [report_skipped(skipped, examples[0])] if skipped else []
    for above in splits:
        # Hugging Face datasets have such lists, and their folders need not be classes.
        if lists := _files_with_suffix(above, _LISTS, start="metadata."):
            notes.append(f"labels are folder names; to use {os.path.join(above, lists[0])}, pass that file")
    return Listing(source=folder, rows=rows, classes=classes, notes=tuple(notes))


def _split_folders(folder: str) -> dict[str, str]:
    """Map split folders to split names; empty if the class folders are directly in `folder`."""
    _reject_unknown_splits(folder)
    named = [name for name in _subfolders(folder) if name.lower() in SPLIT_NAMES]
    if not named:
        return {}
    others = (name for name in _subfolders(folder) if name not in named)
    other = next((name for name in others if scan_folder(os.path.join(folder, name)).videos), None)
    if other is None:
        return {os.path.join(folder, name): SPLIT_NAMES[name.lower()] for name in named}
    # A class may have the name "train". A folder of that name with its videos in subfolders is a split.
    for name in named:
        if not _loose_videos(os.path.join(folder, name)):
            raise InputError(
                f"{folder}: {name!r} looks like a split, but {other!r} beside it does not: "
                "use only split folders there, or only class folders"
            )
    return {}


def _reject_unknown_splits(folder: str) -> None:
    """Raise InputError for folders with names like `train_set` and `dev` that have common subfolders."""
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
            f"{folder}: {', '.join(names)} look like splits, because each has the folders "
            f"{first_few(shared)}: rename them to train, val and test, or use --data {train} "
            f"--set data.val={val}"
        )


def _reject_loose_videos(folders: Mapping[str, str | None]) -> None:
    """Raise InputError for videos beside class folders, and suggest a list file if there is one."""
    for folder in folders:
        if loose := _loose_videos(folder):
            suggestion = _suggest_split_lists(folders) or _suggest_list(folder)
            raise InputError(
                f"{os.path.join(folder, loose[0])}: the video is not in a class folder "
                f"({len(loose)} in {folder}): move it into one, or remove it; "
                f"to use a list of videos, pass the list file{suggestion}"
            )


def _suggest_split_lists(folders: Mapping[str, str | None]) -> str:
    """Return the settings for a list in each split folder, as in Hugging Face datasets."""
    lists = {
        split: os.path.join(folder, names[0])
        for folder, split in folders.items()
        if split and (names := _files_with_suffix(folder, _LISTS, start="metadata."))
    }
    if "train" not in lists:
        return ""
    text = f"s: to train, --data {shlex.quote(lists['train'])}"
    if "val" in lists:
        text += f" --set data.val={shlex.quote(lists['val'])}"
    return text + (f"; to evaluate, {shlex.quote(lists['test'])}" if "test" in lists else "")


def _loose_videos(folder: str) -> list[str]:
    return _files_with_suffix(folder, VIDEO_SUFFIXES)


def _files_with_suffix(folder: str, suffixes: frozenset[str], start: str = "") -> list[str]:
    """Return the names of files directly in `folder` with one of these suffixes and the prefix `start`."""
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


def _suggest_list(folder: str) -> str:
    lists = _files_with_suffix(folder, _LISTS)
    return f", perhaps {os.path.join(folder, lists[0])}" if lists else ""
