"""Lists of videos with a header: CSV, TSV and Parquet with path and label, and the CSVs of Kinetics."""

from __future__ import annotations

import csv
import difflib
import io
import os
import re
from collections.abc import Collection, Iterable, Iterator
from types import MappingProxyType
from typing import Any, Final, NamedTuple

from videoswin._errors import InputError
from videoswin._optional import require
from videoswin.data.lists.rows import (
    Listing,
    Row,
    path_below,
    require_order,
    resolve_path,
    seconds,
    split_name,
)

COLUMNS: Final = MappingProxyType(
    dict.fromkeys(("path", "video", "video_path", "file", "file_name", "filename", "filepath"), "path")
    | dict.fromkeys(("video_file_name", "youtube_id", "vid_name"), "path")
    | dict.fromkeys(("label", "class", "choice", "labels", "classes", "choices"), "label")
    | dict.fromkeys(("start", "start_seconds", "time_start", "start_time"), "start")
    | dict.fromkeys(("end", "end_seconds", "time_end", "end_time"), "end")
    | dict.fromkeys(("split", "subset"), "split")
    | dict.fromkeys(("group", "group_id", "person", "subject", "actor", "place", "location"), "group")
    | {"source_video": "group"}
)
"""What a header calls a column -> what it says."""

_SEVERAL: Final = ("labels", "classes", "choices")
"""A column of this name says that a video can have any number of labels."""

_SAID_BY_NAME: Final = frozenset({"youtube_id", "vid_name"})
"""Columns that name a video without folder and suffix: Kinetics and Diving48."""

_LIMITS: Final = MappingProxyType(
    {
        "start": re.compile(r"(start|begin)(_.*)?|first_frame|frame_start"),
        "end": re.compile(r"(end|stop)(_.*)?|last_frame|frame_end"),
    }
)
"""Columns that limit a video to a part. To ignore one would be to use the wrong frames."""

_OFTEN_MISSPELLED: Final = ("path", "video", "file", "label", "class", "start", "end", "split", "group")

_INDEX: Final = re.compile(r"|unnamed: \d+|__index_level_\d+__")
"""What pandas calls the columns of an index, in lower case."""


class _Table(NamedTuple):
    path: str
    header: list[str]
    columns: dict[str, int]
    """What a column says -> its place."""
    records: list[tuple[str, list[Any]]]
    """(where it stands, its cells), as many cells as the header has."""
    notes: tuple[str, ...]

    @property
    def names_videos(self) -> str | None:
        """Which of _SAID_BY_NAME the header has."""
        name = _plain(self.header[self.columns["path"]])
        return name if name in _SAID_BY_NAME else None

    def at(self, column: str) -> str:
        """For error messages, behind where the row stands."""
        return f"column {self.header[self.columns[column]]!r}"

    def cell(self, cells: list[Any], column: str) -> Any:
        """The cell of a column, None if there is no such column."""
        return cells[self.columns[column]] if column in self.columns else None


def header_delimiter(line: str) -> str | None:
    """What separates the columns of a header: a comma, a tab or a semicolon; None if it is no header."""
    known = {d: sum(_plain(cell) in COLUMNS for cell in line.split(d)) for d in (",", "\t", ";")}
    best = max(known, key=lambda delimiter: known[delimiter])
    return best if known[best] else None


def read_csv(path: str, text: str, delimiter: str, root: str, classes: Collection[str]) -> Listing:
    """The rows of a CSV with a header.

    Several labels in a cell, with `|` or else `;` between them, make it multi-label, and so does a column
    named `labels`. `\\|` and `\\;` are part of a name, and a cell that is one of `classes` is one label.
    Columns that say nothing about videos are left out, with a note. InputError with line and column.
    """
    (_, header), *records = _csv_records(path, text, delimiter)
    return read_records(path, header, records, root, classes)


def read_parquet(path: str, root: str, classes: Collection[str]) -> Listing:
    """As read_csv, for a Parquet table, where labels may also be numbers, and lists of either.

    ImportError saying what to install if pyarrow is missing.
    """
    pyarrow, parquet = require("pyarrow", extra="scale"), require("pyarrow.parquet", extra="scale")
    try:
        table = parquet.read_table(path)
    except pyarrow.ArrowException as error:
        raise InputError(f"{path}: the Parquet file cannot be read: {error}") from error
    cells = zip(*(column.to_pylist() for column in table.columns), strict=True)
    records = [(f"{path}, row {number}", list(row)) for number, row in enumerate(cells, 1)]
    return read_records(path, list(table.column_names), records, root, classes)


def read_records(
    path: str, header: list[str], records: list[tuple[str, list[Any]]], root: str, classes: Collection[str]
) -> Listing:
    """The rows of any table: `records` are (where it stands, as many cells as the header has)."""
    columns, ignored = _columns(path, header)
    notes = (f"columns that are not used: {', '.join(ignored)}",) if ignored else ()
    return _read(_Table(path, header, columns, records, notes), root, classes)


def csv_text(rows: Iterable[Iterable[str]]) -> str:
    """A CSV that read_csv reads back, cell by cell."""
    return "".join(",".join(map(_quoted, cells)) + "\n" for cells in rows)


def join_labels(labels: Iterable[str]) -> str:
    """Names in one cell, so that they are found again: `|` between them, a backslash before any in them."""
    return "|".join(re.sub(r"([\\|;])", r"\\\1", label) for label in labels)


def _csv_records(path: str, text: str, delimiter: str) -> Iterator[tuple[str, list[str]]]:
    # Strict, or a quote that is never closed swallows the rest of the file.
    reader = csv.reader(
        io.StringIO(text, newline=""), delimiter=delimiter, skipinitialspace=True, strict=True
    )
    columns = 0
    while True:
        where = f"{path}, line {reader.line_num + 1}"
        try:
            cells = next(reader, None)
        except csv.Error as error:
            raise InputError(f"{where}: it is no CSV ({error}): are its quotes closed?") from error
        if cells is None:
            return
        if not any(cells):
            continue
        columns = columns or len(cells)
        if len(cells) != columns:
            raise InputError(
                f"{where}: found {len(cells)} cells, wanted {columns} as in the header; "
                f'a cell with {delimiter!r} in it wants quotes: "a{delimiter} b"'
            )
        yield where, cells


def _columns(path: str, header: list[str]) -> tuple[dict[str, int], list[str]]:
    """What each column says -> its place; and the columns that say nothing about videos.

    InputError for a header that misses a column, has two for one thing, or has one that looks misspelled or
    limits videos to parts in a way that is not understood.
    """
    columns: dict[str, int] = {}
    unknown: list[str] = []
    for place, name in enumerate(header):
        says = COLUMNS.get(_plain(name))
        if says is None:
            unknown.append(name)
        elif says not in columns or (says == "group" and _plain(name) == "group"):
            columns[says] = place
        elif says != "group" or _plain(header[columns[says]]) != "group":
            raise InputError(
                f"{path}, header: {header[columns[says]]!r} and {name!r} both say the {says}: remove one"
                + (", or call the one that counts 'group'" if says == "group" else "")
            )
    kinetics = "youtube_id" in map(_plain, header)
    for name in unknown:
        _refuse_doubtful(path, name, columns, header)
    for says in ("path", "label", "start", "end")[: 4 if kinetics else 2]:
        if says not in columns:
            cure = "; the published test lists have no labels" if kinetics else ""
            raise InputError(
                f"{path}, header: a column {says!r} is required, got {', '.join(header)}: rename yours{cure}"
            )
    ignored = [name for name in unknown if not _INDEX.fullmatch(_plain(name)) and _plain(name) != "is_cc"]
    return columns, ignored


def _refuse_doubtful(path: str, name: str, columns: Collection[str], header: list[str]) -> None:
    """InputError for an unknown column that may be a known one misspelled, or times in another unit."""
    near = difflib.get_close_matches(_plain(name), _OFTEN_MISSPELLED, 1, cutoff=0.8)
    if near and COLUMNS[near[0]] not in columns:
        raise InputError(f"{path}, header: unknown column {name!r}: did you mean {near[0]!r}? Else rename it")
    limit = next((says for says, form in _LIMITS.items() if form.fullmatch(_plain(name))), None)
    # The videos of Diving48 are cut already: its frame numbers are those of the whole file.
    if limit and limit not in columns and "vid_name" not in map(_plain, header):
        raise InputError(
            f"{path}, header: {name!r} is not understood: parts of videos are given in seconds or mm:ss, in "
            "columns called 'start' and 'end'; remove it to use whole videos"
        )


def _read(table: _Table, root: str, classes: Collection[str]) -> Listing:
    known = set(classes)
    place = table.columns["label"]
    may_be_none = _plain(table.header[place]) in _SEVERAL
    separator, several = _separator([cells[place] for _, cells in table.records], known)
    rows = []
    for where, cells in table.records:
        labels = _labels(cells[place], separator, known, f"{where}, {table.at('label')}")
        if not labels and not may_be_none:
            raise InputError(
                f"{where}, {table.at('label')}: it is empty, wanted a label "
                "(if a video may have none, name the column 'labels')"
            )
        rows.append(_row(table, where, cells, labels, root))
    if table.names_videos:
        rows = resolve_path(rows, root)
    return Listing(source=table.path, rows=rows, multi_label=several or may_be_none, notes=table.notes)


def _row(table: _Table, where: str, cells: list[Any], labels: tuple[str, ...], root: str) -> Row:
    path = table.cell(cells, "path")
    if not isinstance(path, str) or not path:
        raise InputError(f"{where}, {table.at('path')}: found {path!r}, wanted the path of a video")
    start, end = (
        seconds(table.cell(cells, name), f"{where}, {table.at(name)}") if name in table.columns else None
        for name in ("start", "end")
    )
    if end is not None:
        require_order(start, end, f"{where}, {table.at('end')}")
    split = table.cell(cells, "split")
    split = split_name(split, f"{where}, {table.at('split')}") if "split" in table.columns else None
    group = table.cell(cells, "group")
    group = None if group is None or str(group).strip() == "" else str(group).strip()
    if table.names_videos != "youtube_id":
        path = f"{path}.mp4" if table.names_videos else path
        return Row(path_below(root, path), labels, where, start, end, split, group)
    if start is None or end is None:
        raise InputError(f"{where}: {'start' if start is None else 'end'} is empty, wanted seconds")
    # The files are the parts already, and their names hold the times: as the archives of
    # github.com/cvdfoundation/kinetics-dataset, the crawler of ActivityNet and MMAction2 have them.
    name = f"{path}_{int(start):06d}_{int(end):06d}.mp4"
    return Row(os.path.join(root, name), labels, where, split=split, group=group or path)


def _separator(cells: Iterable[object], known: Collection[str]) -> tuple[str, bool]:
    """What stands between labels, `|` or else `;`, and whether any cell has several."""
    cells = list(cells)
    for separator in "|;":
        if any(
            isinstance(cell, str) and separator in cell and len(_names(cell, separator, known)) > 1
            for cell in cells
        ):
            return separator, True
    return "|", any(isinstance(cell, list) for cell in cells)


def _labels(cell: object, separator: str, known: Collection[str], where: str) -> tuple[str, ...]:
    if cell is None or cell == "":
        return ()
    if isinstance(cell, list):
        names = [str(name).strip() for name in cell]
    else:
        names = _names(str(cell), separator, known)
    if not all(names):
        raise InputError(f"{where}: found {cell!r}, in which a label is empty")
    return tuple(dict.fromkeys(names))


def _names(cell: str, separator: str, known: Collection[str]) -> list[str]:
    if "\\" in cell:
        names = [""]
        for token in re.findall(r"\\[\\|;]|.", cell, re.DOTALL):
            if token == separator:
                names.append("")
            else:
                names[-1] += token[-1]
    else:
        names = cell.split(separator)
    names = [name.strip() for name in names]
    whole = cell.strip()
    return [whole] if whole in known and not all(name in known for name in names) else names


def _plain(name: object) -> str:
    return str(name).strip().strip('"').lower()


def _quoted(cell: str) -> str:
    return '"' + cell.replace('"', '""') + '"' if re.search(r'[",\r\n]|^ ', cell) else cell
