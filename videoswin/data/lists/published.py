"""Which kind of list a file or folder is, and the split files of UCF101 and HMDB51."""

from __future__ import annotations

import os
import re
from collections.abc import Collection
from os.path import basename, dirname, exists, join
from typing import Final, NamedTuple

from videoswin._errors import InputError
from videoswin.data.lists.class_folders import read_class_folders
from videoswin.data.lists.json_lists import JSON_START, read_json_list
from videoswin.data.lists.rows import Listing, Row, numbered_lines, path_below, read_text, resolve_path
from videoswin.data.lists.tables import header_delimiter, read_csv, read_parquet
from videoswin.video.listing import VIDEO_SUFFIXES
from videoswin.video.reader import FOLDER_FPS

_BACKWARDS_NUMBERS: Final = re.compile(r"(?:\d{1,18}-?[ \t,]+)+")

_FEWEST_FRAMES: Final = 8
"""A column with smaller numbers does not count frames: no clip of a data set is that short."""


class _Line(NamedTuple):
    where: str
    path: str
    numbers: list[int]

    @property
    def is_video(self) -> bool:
        """Whether it names a file, not a folder of frames."""
        return os.path.splitext(self.path)[1].lower() in VIDEO_SUFFIXES


class _Layout(NamedTuple):
    name: str
    """What the numbers are, in words."""
    num_before: int
    """Numbers before the labels: 0, 1 (frames) or 2 (start and frames)."""


_LABELS: Final = _Layout("labels", 0)
_FRAMES: Final = _Layout("a number of frames, then labels", 1)
_PART: Final = _Layout("first frame, number of frames, label", 2)


def read_number_list(path: str, lines: list[tuple[int, str]], root: str, classes: Collection[str]) -> Listing:
    """The rows of a list with numbers, separated by spaces, commas or tabs.

    A path ends where only numbers follow, so it may have spaces in it. InputError for lines without a number,
    and where a number of frames would be taken for a label.
    """
    parsed = []
    for number, text in lines:
        where = f"{path}, line {number}"
        video, numbers = split_numbers(text)
        if not numbers:
            raise InputError(f"{where}: found {text[:80]!r}, wanted a path and then whole numbers")
        parsed.append(_Line(where, video, numbers))
    notes = []
    layouts = {}
    for kind, name in ((True, "videos"), (False, "folders")):
        if some := [line for line in parsed if line.is_video is kind]:
            layouts[kind] = _layout_of(some, len(classes))
            if layouts[kind] is _PART or (kind and layouts[kind] is _FRAMES):
                notes.append(f"the numbers behind the {name} are read as: {layouts[kind].name}")
    rows = [_row(line, layouts[line.is_video], root) for line in parsed]
    multi_label = any(len(row.labels) > 1 for row in rows)
    if multi_label and not classes:
        _refuse_counts(parsed, rows)
    return Listing(source=path, rows=rows, multi_label=multi_label, notes=tuple(notes))


def split_numbers(line: str) -> tuple[str, list[int]]:
    """`a b.mp4 3 7` -> (`a b.mp4`, [3, 7]); no numbers if there is no path before them.

    Of three or more numbers the first is a path.
    """
    # Backwards, where the numbers come first: searching for where they begin takes the square of the length.
    match = _BACKWARDS_NUMBERS.match(line[::-1] + " ")
    if match is None:
        return line, []
    end = max(len(line) - match.end(), 0)
    if end == 0:
        # Something-Something names its folders of frames by numbers: `78687 48 105`.
        path, *numbers = re.findall(r"-?\d+", line)
        return (path, [int(number) for number in numbers]) if len(numbers) > 1 else (line, [])
    return line[:end].strip('"'), [int(number) for number in re.findall(r"-?\d+", line[end:])]


def _layout_of(lines: list[_Line], num_classes: int) -> _Layout:
    """What the numbers of all lines with videos, or of all with folders, are."""
    widths = {len(line.numbers) for line in lines}
    columns = list(zip(*(line.numbers for line in lines), strict=False))
    is_video = lines[0].is_video
    if (
        widths == {2}
        and set(columns[0]) <= {0, 1}
        and (set(columns[1]) == {-1} or min(columns[1]) >= _FEWEST_FRAMES)
    ):
        raise InputError(
            f"{lines[0].where}: the numbers look like 'start frames' of a list for pre-training VideoMAE, "
            "which has no labels: give a list with a label in each line"
        )
    if widths == {3} and (min(columns[1]) >= _FEWEST_FRAMES or set(columns[1]) == {-1}):
        return _PART
    if not is_video:
        return _LABELS if widths == {1} else _FRAMES
    if widths == {2} and (
        min(columns[0]) >= _FEWEST_FRAMES
        or (num_classes and max(columns[0]) >= num_classes > max(columns[1]))
    ):
        return _FRAMES
    return _LABELS


def _row(line: _Line, layout: _Layout, root: str) -> Row:
    before = layout.num_before if len(line.numbers) > layout.num_before else 0
    labels = tuple(dict.fromkeys(map(str, line.numbers[before:])))
    start = end = None
    if before and line.numbers[before - 1] == 0:
        raise InputError(f"{line.where}: the number of frames must be >= 1, got 0")
    if layout is _PART:
        first, frames = line.numbers[:2]
        # Frames are counted from 0 or from 1; as long as all of the video is meant, that does not matter.
        if line.is_video and first > 1:
            raise InputError(
                f"{line.where}: the part begins at frame {first}, and the list does not say when that is: "
                "write a table with the header path,label,start,end, in seconds"
            )
        if not line.is_video and frames > 0:
            start = first / FOLDER_FPS if first > 1 else None
            end = (first + frames) / FOLDER_FPS
    return Row(path_below(root, line.path), labels, line.where, start, end)


def _refuse_counts(lines: list[_Line], rows: list[Row]) -> None:
    """InputError if the first of several labels looks like a number of frames."""
    used = {label for row in rows for label in row.labels}
    for line, row in zip(lines, rows, strict=True):
        if len(row.labels) > 1 and int(row.labels[0]) > 2 * len(used) + 10:
            raise InputError(
                f"{line.where}: {row.labels[0]} looks like a number of frames, not like one of several "
                "labels: write 'path label' lines; if it is a label, put the names of the classes into a "
                "file named like the list with .classes.txt behind it, one a line"
            )


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
    return Listing(source=path, rows=resolve_path(rows, root), classes=classes)


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
    return Listing(source=path, rows=resolve_path(rows, root))
