"""Which kind of list a file or folder is, and the split files of UCF101 and HMDB51."""

from __future__ import annotations

import os
import re
from collections.abc import Collection
from os.path import basename, dirname, exists, join
from typing import Final

from videoswin._errors import InputError
from videoswin.data.lists.class_folders import read_class_folders
from videoswin.data.lists.find_by_name import located
from videoswin.data.lists.json_lists import JSON_START, read_json_list
from videoswin.data.lists.number_lists import read_number_list, split_numbers
from videoswin.data.lists.rows import Listing, Row, numbered_lines, read_text
from videoswin.data.lists.tables import header_delimiter, read_csv, read_parquet
from videoswin.video.listing import VIDEO_SUFFIXES

_UCF101: Final = re.compile(r"(train|val|test)list(\d+)\.txt")
_HMDB51: Final = re.compile(r"(.+)_test_split(\d+)\.txt")

KNOWN_FORMS: Final = (
    "a header with path,label (CSV, TSV or Parquet; start, end, split and group may follow) or that of "
    "Kinetics; 'path label', 'path frames label' or 'path start frames label' lines of MMAction2, GluonCV "
    "and VideoMAE; JSON of Something-Something, Diving48, ActivityNet, Label Studio, FiftyOne or objects "
    "with path and label (metadata.jsonl); the split files of UCF101 and HMDB51; or a folder with one folder "
    "for each class"
)


def read_listing(path: str, root: str | None, classes: Collection[str]) -> Listing:
    """The rows of a list or folder. `root` is where its paths start; None is the list's folder.

    `classes` are names that are known before. ValueError for what is none of KNOWN_FORMS, or one with faults.
    """
    if os.path.isdir(path):
        for form, read in ((_UCF101, _read_ucf101), (_HMDB51, _read_hmdb51)):
            if files := [name for name in sorted(os.listdir(path)) if form.fullmatch(name)]:
                return read(join(path, files[0]), path if root is None else root)
        return read_class_folders(path)
    root = root if root is not None else dirname(path)
    with open(path, "rb") as file:
        beginning = file.read(4)
    if beginning == b"PAR1":
        return read_parquet(path, root, classes)
    if os.path.splitext(path)[1].lower() in VIDEO_SUFFIXES:
        raise InputError(f"{path}: it is a video, wanted a list of videos or a folder of them")
    return _read_text_list(path, root, classes)


def _read_text_list(path: str, root: str, classes: Collection[str]) -> Listing:
    if _UCF101.fullmatch(basename(path)):
        return _read_ucf101(path, root)
    if _HMDB51.fullmatch(basename(path)):
        return _read_hmdb51(path, root)
    text = read_text(path)
    # Spreadsheets may write the delimiter into a line above the header.
    separator = re.match(r'"?sep=(.)"?[ \t]*(?=[\r\n])', text, re.IGNORECASE)
    text = text[separator.end() :] if separator else text
    lines = numbered_lines(text)
    if not lines:
        raise InputError(f"{path}: the list is empty")
    number, first = lines[0]
    if JSON_START.match(first):
        return read_json_list(path, text, root, classes)
    if delimiter := separator[1] if separator else header_delimiter(first):
        return read_csv(path, text, delimiter, root, classes)
    if split_numbers(first)[1]:
        return read_number_list(path, lines, root, classes)
    raise InputError(
        f"{path}, line {number}: found {first[:80]!r}, which no list begins with; known are {KNOWN_FORMS}"
    )


def _read_ucf101(path: str, root: str) -> Listing:
    """The fold that `path` belongs to, `trainlist01.txt` with `testlist01.txt`; classes by `classInd.txt`.

    As annotated by https://www.crcv.ucf.edu/data/UCF101.php: `Class/v_Class_g01_c01.avi`, and in the training
    lists the number of the class, from 1.
    """
    match = _UCF101.fullmatch(basename(path))
    assert match is not None
    classes = _ucf101_classes(join(dirname(path), "classInd.txt"))
    rows = []
    for split in ("train", "val", "test"):
        file = join(dirname(path), f"{split}list{match[2]}.txt")
        for number, line in numbered_lines(read_text(file)) if exists(file) else []:
            video, _, index = line.partition(" ")
            label, where = dirname(video), f"{file}, line {number}"
            if label not in classes:
                raise InputError(f"{where}: found {line[:80]!r}, whose folder is no class of classInd.txt")
            if index.strip() not in ("", str(classes.index(label) + 1)):
                raise InputError(
                    f"{where}: found the number {index.strip()}, wanted {classes.index(label) + 1}, "
                    f"which classInd.txt gives to {label}"
                )
            # All clips v_Archery_g08_* were cut from one video.
            group = basename(video).rpartition("_c")[0] or None
            rows.append(Row(join(root, video), (label,), where, split=split, group=group))
    return Listing(source=path, rows=located(rows, root), classes=classes)


def _ucf101_classes(path: str) -> tuple[str, ...]:
    if not exists(path):
        raise InputError(f"{path}: there is no such file; the lists of UCF101 need it for their classes")
    classes: list[str] = []
    for number, line in numbered_lines(read_text(path)):
        index, _, name = line.partition(" ")
        if index != str(len(classes) + 1) or not name:
            raise InputError(
                f"{path}, line {number}: found {line[:80]!r}, wanted '{len(classes) + 1} Name' in turn"
            )
        classes.append(name.strip())
    return tuple(classes)


def _read_hmdb51(path: str, root: str) -> Listing:
    """The fold that `path` belongs to: every `<class>_test_split<fold>.txt` of its folder.

    1 behind a file is training, 2 test and 0 neither, as the split_readme.txt of HMDB51 says.
    """
    folder, match = dirname(path), _HMDB51.fullmatch(basename(path))
    assert match is not None
    rows = []
    for name in sorted(os.listdir(folder or ".")):
        sibling = _HMDB51.fullmatch(name)
        if sibling is None or sibling[2] != match[2]:
            continue
        for number, line in numbered_lines(read_text(join(folder, name))):
            where = f"{join(folder, name)}, line {number}"
            video, _, use = line.rpartition(" ")
            if use not in ("0", "1", "2") or not video:
                raise InputError(f"{where}: found {line[:80]!r}, wanted a file and 0, 1 or 2")
            if use != "0":
                path_there = join(root, sibling[1], video.strip())
                split = "train" if use == "1" else "test"
                # <source video>_<class>_<properties>_<number>.avi
                group = video.rpartition(f"_{sibling[1]}_")[0] or None
                rows.append(Row(path_there, (sibling[1],), where, split=split, group=group))
    return Listing(source=path, rows=located(rows, root))
