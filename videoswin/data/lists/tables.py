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
from videoswin.data.lists.find_by_name import located
from videoswin.data.lists.rows import Listing, Row, seconds, split_name

COLUMNS: Final = MappingProxyType(
    dict.fromkeys(("path", "video", "video_path", "file", "file_name", "filename", "youtube_id"), "path")
    | dict.fromkeys(("label", "class", "labels", "classes"), "label")
    | dict.fromkeys(("start", "start_seconds", "time_start"), "start")
    | dict.fromkeys(("end", "end_seconds", "time_end"), "end")
    | dict.fromkeys(("split", "subset"), "split")
    | {"is_cc": "licence"}
)
"""What a header calls a column -> what it says."""

_SEVERAL: Final = ("labels", "classes")
"""A column of this name says that a video can have any number of labels."""


class _Table(NamedTuple):
    path: str
    header: list[str]
    columns: dict[str, int]
    """What a column says -> its place."""
    records: list[tuple[str, list[Any]]]
    """(where it stands, its cells), as many cells as the header has."""
    kinetics: bool

    def at(self, column: str) -> str:
        """For error messages, behind where the row stands."""
        return f"column {self.header[self.columns[column]]!r}"


def header_delimiter(line: str) -> str | None:
    """What separates the columns of a header: a comma, a tab or a semicolon; None if it is no header."""
    known = {d: sum(_plain(cell) in COLUMNS for cell in line.split(d)) for d in (",", "\t", ";")}
    best = max(known, key=lambda delimiter: known[delimiter])
    return best if known[best] else None


def read_csv(path: str, text: str, delimiter: str, root: str, classes: Collection[str]) -> Listing:
    """The rows of a CSV with a header.

    Several labels in a cell, with `|` or else `;` between them, make it multi-label, and so does a column
    named `labels`. `\\|` and `\\;` are part of a name, and a cell that is one of `classes` is one label.
    ValueError naming line and column of what is wrong.
    """
    (_, header), *records = _csv_records(path, text, delimiter)
    return _read(_Table(path, header, _columns(path, header), records, _is_kinetics(header)), root, classes)


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
    header = list(table.column_names)
    return _read(_Table(path, header, _columns(path, header), records, _is_kinetics(header)), root, classes)


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


def _columns(path: str, header: list[str]) -> dict[str, int]:
    """What each column says -> its place. ValueError for a header that misses one, or has one too many."""
    columns: dict[str, int] = {}
    for place, name in enumerate(header):
        says = COLUMNS.get(_plain(name))
        if says is None:
            near = difflib.get_close_matches(_plain(name), COLUMNS, 1)
            hint = f"did you mean {near[0]!r}" if near else "take it out"
            raise InputError(
                f"{path}, header: found the column {name!r}, wanted path, label, start, end, split: {hint}"
            )
        if says in columns:
            raise InputError(
                f"{path}, header: {header[columns[says]]!r} and {name!r} both say the {says}, wanted one"
            )
        columns[says] = place
    for says in ("path", "label", "start", "end")[: 4 if _is_kinetics(header) else 2]:
        if says not in columns:
            cure = "; the published test lists have no labels" if _is_kinetics(header) else ""
            raise InputError(f"{path}, header: found {', '.join(header)}, wanted a column {says!r} too{cure}")
    return columns


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
    if table.kinetics:
        rows = located(rows, root)
    return Listing(source=table.path, rows=rows, multi_label=several or may_be_none)


def _row(table: _Table, where: str, cells: list[Any], labels: tuple[str, ...], root: str) -> Row:
    columns = table.columns
    path = cells[columns["path"]]
    if not isinstance(path, str) or not path:
        raise InputError(f"{where}, {table.at('path')}: found {path!r}, wanted the path of a video")
    start = seconds(cells[columns["start"]], f"{where}, {table.at('start')}") if "start" in columns else None
    end = seconds(cells[columns["end"]], f"{where}, {table.at('end')}") if "end" in columns else None
    if end is not None and end <= (start or 0.0):
        raise InputError(
            f"{where}, {table.at('end')}: found {end} s, wanted more than the start, {start or 0.0} s"
        )
    split = (
        split_name(cells[columns["split"]], f"{where}, {table.at('split')}") if "split" in columns else None
    )
    if not table.kinetics:
        return Row(os.path.join(root, path), labels, where, start, end, split)
    if start is None or end is None:
        raise InputError(f"{where}: {'start' if start is None else 'end'} is empty, wanted seconds")
    # The files are the parts already, and their names hold the times: as the archives of
    # github.com/cvdfoundation/kinetics-dataset, the crawler of ActivityNet and MMAction2 have them.
    return Row(os.path.join(root, f"{path}_{int(start):06d}_{int(end):06d}.mp4"), labels, where, split=split)


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


def _is_kinetics(header: list[str]) -> bool:
    return "youtube_id" in map(_plain, header)


def _plain(name: str) -> str:
    return name.strip().strip('"').lower()


def _quoted(cell: str) -> str:
    return '"' + cell.replace('"', '""') + '"' if re.search(r'[",\r\n]|^ ', cell) else cell
