"""Which kind of list a file or folder is, and the lists that published data sets and MMAction2 bring."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Collection
from os.path import basename, dirname, exists, join
from typing import Any, Final

from videoswin._errors import InputError
from videoswin.data.lists.class_folders import read_class_folders
from videoswin.data.lists.find_by_name import located
from videoswin.data.lists.rows import Listing, Row, numbered_lines, read_text
from videoswin.data.lists.tables import header_delimiter, read_csv, read_parquet
from videoswin.video.listing import VIDEO_SUFFIXES

_UCF101: Final = re.compile(r"(train|val|test)list(\d+)\.txt")
_HMDB51: Final = re.compile(r"(.+)_test_split(\d+)\.txt")
_BACKWARDS_NUMBERS: Final = re.compile(r"(?:\d+-?[ \t,]+)+")
_JSON: Final = re.compile(r'\[\s*([{\]]|$)|\{\s*(["}]|$)')

KNOWN_FORMS: Final = (
    "a header with path,label (CSV, TSV or Parquet; start, end and split may follow) or that of Kinetics; "
    "'path label' or 'folder frames label' lines of MMAction2; the JSON of Something-Something; the split "
    "files of UCF101 and HMDB51; or a folder with one folder for each class"
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
    lines = numbered_lines(text)
    if not lines:
        raise InputError(f"{path}: the list is empty")
    number, first = lines[0]
    if _JSON.match(first):
        return _read_something(path, text, root)
    if delimiter := header_delimiter(first):
        return read_csv(path, text, delimiter, root, classes)
    if _path_and_numbers(first)[1]:
        return _read_mmaction(path, lines, root)
    raise InputError(
        f"{path}, line {number}: found {first[:80]!r}, which no list begins with; known are {KNOWN_FORMS}"
    )


def _read_mmaction(path: str, lines: list[tuple[int, str]], root: str) -> Listing:
    """`video label...` or `folder frames label...`, with spaces, commas or tabs between them.

    As VideoDataset and RawframeDataset of MMAction2, mmaction/datasets/. A video is known by its suffix; the
    path ends where only numbers follow, so it may have spaces in it.
    """
    rows = []
    for number, line in lines:
        where = f"{path}, line {number}"
        video, numbers = _path_and_numbers(line)
        if not numbers:
            raise InputError(f"{where}: found {line[:80]!r}, wanted a path and then whole numbers")
        if os.path.splitext(video)[1].lower() not in VIDEO_SUFFIXES and len(numbers) > 1:
            if int(numbers[0]) < 1:
                raise InputError(f"{where}: found {numbers[0]} frames, wanted 1 or more")
            del numbers[0]
        rows.append(Row(join(root, video), tuple(dict.fromkeys(numbers)), where))
    return Listing(source=path, rows=rows, multi_label=any(len(row.labels) > 1 for row in rows))


def _path_and_numbers(line: str) -> tuple[str, list[str]]:
    """`a b.mp4 3 7` -> (`a b.mp4`, [`3`, `7`]); no numbers if there is no path before them."""
    # Backwards, where the numbers come first: searching for where they begin takes the square of the length.
    match = _BACKWARDS_NUMBERS.match(line[::-1])
    if match is None or match.end() == len(line):
        return line, []
    end = len(line) - match.end()
    return line[:end].strip('"'), [str(int(number)) for number in re.findall(r"-?\d+", line[end:])]


def _read_something(path: str, text: str, root: str) -> Listing:
    """Something-Something v2: the label is the template without its brackets, the file `<id>.webm`.

    The order of the classes is that of `labels.json` or `something-something-v2-labels.json` beside the list.
    """
    entries = _json(path, text)
    if not isinstance(entries, list):
        raise InputError(f"{path}: found a JSON object, wanted a list of entries with 'id' and 'template'")
    rows = []
    for number, entry in enumerate(entries, 1):
        where = f"{path}, entry {number}"
        for field in ("id", "template"):
            if not isinstance(entry, dict) or not isinstance(entry.get(field), str) or not entry[field]:
                raise InputError(
                    f"{where}: found no text {field!r} in {str(entry)[:80]}; the test list has no templates"
                )
        label = entry["template"].replace("[", "").replace("]", "").strip()
        rows.append(Row(join(root, f"{entry['id']}.webm"), (label,), where))
    return Listing(source=path, rows=located(rows, root), classes=_something_classes(dirname(path)))


def _something_classes(folder: str) -> tuple[str, ...] | None:
    """The names in the order of their numbers; None without a file of them."""
    files = [join(folder, name) for name in ("labels.json", "something-something-v2-labels.json")]
    path = next(filter(exists, files), None)
    if path is None:
        return None
    numbers = _json(path, read_text(path))
    if not isinstance(numbers, dict) or sorted(map(str, numbers.values())) != sorted(
        map(str, range(len(numbers)))
    ):
        raise InputError(f"{path}: wanted an object of names with the numbers 0, 1, 2, ..., each once")
    return tuple(sorted(numbers, key=lambda name: int(numbers[name])))


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
            rows.append(Row(join(root, video), (label,), where, split=split))
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
                rows.append(Row(path_there, (sibling[1],), where, split="train" if use == "1" else "test"))
    return Listing(source=path, rows=located(rows, root))


def _json(path: str, text: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise InputError(f"{path}, line {error.lineno}, column {error.colno}: {error.msg}") from error
