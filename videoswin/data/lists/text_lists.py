"""Read text lists: lines of paths and integers, and the split files of UCF101 and HMDB51."""

from __future__ import annotations

import os
import re
from os.path import basename, dirname, exists, join
from typing import Final, NamedTuple

from videoswin._errors import InputError
from videoswin.data.lists.rows import (
    Listing,
    ListSource,
    Row,
    number_lines,
    path_below,
    read_text,
    resolve_path,
)
from videoswin.video.listing import VIDEO_SUFFIXES
from videoswin.video.reader import FOLDER_FPS

_BACKWARDS_NUMBERS: Final = re.compile(r"(?:\d{1,18}-?[ \t,]+)+")

_MIN_FRAMES: Final = 8
"""A column with smaller numbers is not a number of frames: no clip of a dataset is that short."""


class _Line(NamedTuple):
    where: str
    path: str
    numbers: list[int]

    @property
    def is_video(self) -> bool:
        """Return whether the path is that of a video file, not of a folder of frames."""
        return os.path.splitext(self.path)[1].lower() in VIDEO_SUFFIXES


class _Layout(NamedTuple):
    name: str
    """Meaning of the numbers, in words."""
    num_before: int
    """Numbers before the labels: 0, 1 (frames) or 2 (start and frames)."""


_LABELS: Final = _Layout("labels", 0)
_FRAMES: Final = _Layout("a number of frames, then labels", 1)
_PART: Final = _Layout("first frame, number of frames, label", 2)


def is_number_list(source: ListSource) -> bool:
    """Return whether the first line is a path followed by integers."""
    return bool(split_numbers(source.first_line)[1])


def read_number_list(source: ListSource) -> Listing:
    """Read the rows of a list with numbers, separated by spaces, commas or tabs.

    A path ends where only numbers follow, so it may have spaces in it.

    Raises:
        InputError: A line has no number, or a number of frames would be read as a label.
    """
    parsed = []
    for number, text in number_lines(source.text):
        where = f"{source.path}, line {number}"
        video, numbers = split_numbers(text)
        if not numbers:
            raise InputError(f"{where}: the line must be a path followed by integers, got {text[:80]!r}")
        parsed.append(_Line(where, video, numbers))
    notes = []
    layouts = {}
    for kind, name in ((True, "videos"), (False, "folders")):
        if some := [line for line in parsed if line.is_video is kind]:
            layouts[kind] = _layout_of(some, len(source.classes))
            if layouts[kind] is _PART or (kind and layouts[kind] is _FRAMES):
                notes.append(f"the numbers after the {name} are read as: {layouts[kind].name}")
    rows = [_row(line, layouts[line.is_video], source.root) for line in parsed]
    multi_label = any(len(row.labels) > 1 for row in rows)
    if multi_label and not source.classes:
        _reject_frame_counts(parsed, rows)
    return Listing(source=source.path, rows=rows, multi_label=multi_label, notes=tuple(notes))


def split_numbers(line: str) -> tuple[str, list[int]]:
    """Split a line into its path and the integers after it: `a b.mp4 3 7` -> (`a b.mp4`, [3, 7]).

    A line with only integers has the first one as its path if there are three or more, else no integers.
    """
    # Match the reversed line, where the numbers come first: a forward search takes quadratic time.
    match = _BACKWARDS_NUMBERS.match(line[::-1] + " ")
    if match is None:
        return line, []
    end = max(len(line) - match.end(), 0)
    if end == 0:
        # The frame folders of Something-Something have numbers as names: `78687 48 105`.
        path, *numbers = re.findall(r"-?\d+", line)
        return (path, [int(number) for number in numbers]) if len(numbers) > 1 else (line, [])
    return line[:end].strip('"'), [int(number) for number in re.findall(r"-?\d+", line[end:])]


def _layout_of(lines: list[_Line], num_classes: int) -> _Layout:
    """Return the layout of the numbers of all lines with videos, or of all lines with folders."""
    widths = {len(line.numbers) for line in lines}
    columns = list(zip(*(line.numbers for line in lines), strict=False))
    is_video = lines[0].is_video
    if (
        widths == {2}
        and set(columns[0]) <= {0, 1}
        and (set(columns[1]) == {-1} or min(columns[1]) >= _MIN_FRAMES)
    ):
        raise InputError(
            f"{lines[0].where}: the numbers look like 'start frames' of a list for pre-training VideoMAE, "
            "which has no labels: use a list with a label in each line"
        )
    if widths == {3} and (min(columns[1]) >= _MIN_FRAMES or set(columns[1]) == {-1}):
        return _PART
    if not is_video:
        return _LABELS if widths == {1} else _FRAMES
    if widths == {2} and (
        min(columns[0]) >= _MIN_FRAMES or (num_classes and max(columns[0]) >= num_classes > max(columns[1]))
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
        # Lists count frames from 0 or from 1; for a whole video the difference does not matter.
        if line.is_video and first > 1:
            raise InputError(
                f"{line.where}: the part must begin at the start of the video, got frame {first}, whose time "
                "is unknown: write a table with the header path,label,start,end, in seconds"
            )
        if not line.is_video and frames > 0:
            start = first / FOLDER_FPS if first > 1 else None
            end = (first + frames) / FOLDER_FPS
    return Row(path_below(root, line.path), labels, line.where, start, end)


def _reject_frame_counts(lines: list[_Line], rows: list[Row]) -> None:
    """Raise InputError if the first of several labels looks like a number of frames."""
    used = {label for row in rows for label in row.labels}
    for line, row in zip(lines, rows, strict=True):
        if len(row.labels) > 1 and int(row.labels[0]) > 2 * len(used) + 10:
            raise InputError(
                f"{line.where}: {row.labels[0]} looks like a number of frames, not like one of several "
                "labels: write 'path label' lines; if it is a label, write the class names, one per line, "
                "into a file with the name of the list and the additional suffix .classes.txt"
            )


_UCF101: Final = re.compile(r"(train|val|test)list(\d+)\.txt")
_HMDB51: Final = re.compile(r"(.+)_test_split(\d+)\.txt")


def is_ucf101(source: ListSource) -> bool:
    """Return whether the source is a split file of UCF101, or a folder of them."""
    return _first_named(_UCF101, source) is not None


def is_hmdb51(source: ListSource) -> bool:
    """Return whether the source is a split file of HMDB51, or a folder of them."""
    return _first_named(_HMDB51, source) is not None


def _first_named(form: re.Pattern[str], source: ListSource) -> str | None:
    """Return the path of the file, or of the first file of the folder, with such a name; None without one."""
    if not source.is_folder:
        return source.path if form.fullmatch(basename(source.path)) else None
    name = next((name for name in sorted(os.listdir(source.path)) if form.fullmatch(name)), None)
    return name and join(source.path, name)


def read_ucf101(source: ListSource) -> Listing:
    """Read a fold of UCF101: `trainlist01.txt` with `testlist01.txt`, and the classes in `classInd.txt`.

    Source: https://www.crcv.ucf.edu/data/UCF101.php: lines are `Class/v_Class_g01_c01.avi`, in the training
    lists followed by the number of the class, from 1.
    """
    path, root = _first_named(_UCF101, source), source.root
    assert path is not None
    match = _UCF101.fullmatch(basename(path))
    assert match is not None
    classes = _ucf101_classes(join(dirname(path), "classInd.txt"))
    rows = []
    for split in ("train", "val", "test"):
        file = join(dirname(path), f"{split}list{match[2]}.txt")
        for number, line in number_lines(read_text(file)) if exists(file) else []:
            video, _, index = line.partition(" ")
            label, where = dirname(video), f"{file}, line {number}"
            if label not in classes:
                raise InputError(f"{where}: the folder must be a class of classInd.txt, got {line[:80]!r}")
            if index.strip() not in ("", str(classes.index(label) + 1)):
                raise InputError(
                    f"{where}: the number of class {label} must be {classes.index(label) + 1} as in "
                    f"classInd.txt, got {index.strip()}"
                )
            # All clips v_Archery_g08_* were cut from one video.
            group = basename(video).rpartition("_c")[0] or None
            rows.append(Row(join(root, video), (label,), where, split=split, group=group))
    return Listing(source=path, rows=resolve_path(rows, root), classes=classes)


def _ucf101_classes(path: str) -> tuple[str, ...]:
    if not exists(path):
        raise InputError(f"{path}: there is no such file; the lists of UCF101 require it for their classes")
    classes: list[str] = []
    for number, line in number_lines(read_text(path)):
        index, _, name = line.partition(" ")
        if index != str(len(classes) + 1) or not name:
            raise InputError(
                f"{path}, line {number}: the line must be '{len(classes) + 1} Name', got {line[:80]!r}"
            )
        classes.append(name.strip())
    return tuple(classes)


def read_hmdb51(source: ListSource) -> Listing:
    """Read a fold of HMDB51: every `<class>_test_split<fold>.txt` of its folder.

    The number after a file is 1 for training, 2 for test and 0 for neither.

    Source: split_readme.txt of HMDB51.
    """
    path, root = _first_named(_HMDB51, source), source.root
    assert path is not None
    folder, match = dirname(path), _HMDB51.fullmatch(basename(path))
    assert match is not None
    rows = []
    for name in sorted(os.listdir(folder or ".")):
        sibling = _HMDB51.fullmatch(name)
        if sibling is None or sibling[2] != match[2]:
            continue
        for number, line in number_lines(read_text(join(folder, name))):
            where = f"{join(folder, name)}, line {number}"
            video, _, use = line.rpartition(" ")
            if use not in ("0", "1", "2") or not video:
                raise InputError(f"{where}: the line must be a file and 0, 1 or 2, got {line[:80]!r}")
            if use != "0":
                video_path = join(root, sibling[1], video.strip())
                split = "train" if use == "1" else "test"
                # <source video>_<class>_<properties>_<number>.avi
                group = video.rpartition(f"_{sibling[1]}_")[0] or None
                rows.append(Row(video_path, (sibling[1],), where, split=split, group=group))
    return Listing(source=path, rows=resolve_path(rows, root))
