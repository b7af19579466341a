"""Lists with a path and numbers on each line, as MMAction2, GluonCV and VideoMAE write them.

`video label`, `video frames label` (GluonCV), `folder frames label` (MMAction2), each with `start` before
`frames` if only a part is meant (MMAction2, VideoMAE), and `video label label ...` for several labels. No
header says which of them a list is, so the numbers of all lines decide.
"""

from __future__ import annotations

import os
import re
from collections.abc import Collection
from typing import Final, NamedTuple

from videoswin._errors import InputError
from videoswin.data.lists.rows import Listing, Row, path_below
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
