"""Read lists of videos with a header: CSV, TSV and Parquet with path and label, and the CSVs of Kinetics."""

from __future__ import annotations

import csv
import io
import os
import re
from collections.abc import Collection, Iterable, Iterator
from types import MappingProxyType
from typing import Any, Final, NamedTuple

from videoswin._errors import InputError, require
from videoswin._text import did_you_mean
from videoswin.data.lists.rows import (
    Listing,
    ListSource,
    Row,
    parse_seconds,
    parse_split,
    path_below,
    require_order,
    resolve_path,
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
"""Name of a column in a header -> name of the column in this package."""

_MULTI_LABEL_COLUMNS: Final = ("labels", "classes", "choices")
"""Names of a label column that allow any number of labels per video."""

_VIDEO_ID_COLUMNS: Final = frozenset({"youtube_id", "vid_name"})
"""Columns with the name of a video without folder and suffix: Kinetics and Diving48."""

_LIMITS: Final = MappingProxyType(
    {
        "start": re.compile(r"(start|begin)(_.*)?|first_frame|frame_start"),
        "end": re.compile(r"(end|stop)(_.*)?|last_frame|frame_end"),
    }
)
"""Columns that limit a video to a part; ignoring one would select the wrong frames."""

_DELIMITER_LINE: Final = re.compile(r'"?sep=(.)"?[ \t]*(?=[\r\n])', re.IGNORECASE)
"""Line with the delimiter that spreadsheets may write above the header."""

_OFTEN_MISSPELLED: Final = ("path", "video", "file", "label", "class", "start", "end", "split", "group")

_INDEX: Final = re.compile(r"|unnamed: \d+|__index_level_\d+__")
"""Names of the index columns that pandas writes, in lower case."""


class _Table(NamedTuple):
    path: str
    header: list[str]
    columns: dict[str, int]
    """Name of a column -> its index."""
    records: list[tuple[str, list[Any]]]
    """(location for error messages, cells), as many cells as the header has."""
    notes: tuple[str, ...]

    @property
    def video_id_column(self) -> str | None:
        """Return the column of _VIDEO_ID_COLUMNS that the header has; None without one."""
        name = _normalize_name(self.header[self.columns["path"]])
        return name if name in _VIDEO_ID_COLUMNS else None

    def at(self, column: str) -> str:
        """Return the location of a column for error messages, to follow that of the row."""
        return f"column {self.header[self.columns[column]]!r}"

    def cell(self, cells: list[Any], column: str) -> Any:
        """Return the cell of a column; None if there is no such column."""
        return cells[self.columns[column]] if column in self.columns else None


def is_csv(source: ListSource) -> bool:
    """Return whether the first line is a header, or a line of a spreadsheet with the delimiter."""
    return bool(_DELIMITER_LINE.match(source.text) or _header_delimiter(source.first_line))


def _header_delimiter(line: str) -> str | None:
    """Return the delimiter of a header: a comma, a tab or a semicolon; None if the line is not a header."""
    known = {d: sum(_normalize_name(cell) in COLUMNS for cell in line.split(d)) for d in (",", "\t", ";")}
    best = max(known, key=lambda delimiter: known[delimiter])
    return best if known[best] else None


def read_csv(source: ListSource) -> Listing:
    """Read the rows of a CSV with a header.

    Several labels in a cell, separated by `|` or else `;`, make the list multi-label, and so does a column
    named `labels`. `\\|` and `\\;` are part of a name. Unknown columns are skipped, with a note.

    Args:
        source: The list; a cell equal to one of its known classes is one label.

    Raises:
        InputError: The list is invalid, with line and column.
    """
    text = source.text
    if named := _DELIMITER_LINE.match(text):
        text = text[named.end() :]
    delimiter = named[1] if named else _header_delimiter(source.first_line) or ","
    records = list(_csv_records(source.path, text, delimiter))
    if not records:
        raise InputError(f"{source.path}: the list must have at least one video, got an empty file")
    return read_records(source, records[0][1], records[1:])


def is_parquet(source: ListSource) -> bool:
    """Return whether the file begins with the signature of Parquet."""
    with open(source.path, "rb") as file:
        return file.read(4) == b"PAR1"


def read_parquet(source: ListSource) -> Listing:
    """Read the rows of a Parquet table like `read_csv`; labels may also be integers, and lists of both.

    Raises:
        InputError: The file cannot be read, or the table is invalid, with row and column.
        ImportError: pyarrow is not installed; the message has the command to install it.
    """
    pyarrow, parquet = require("pyarrow", extra="scale"), require("pyarrow.parquet", extra="scale")
    path = source.path
    try:
        table = parquet.read_table(path)
    except pyarrow.ArrowException as error:
        raise InputError(f"{path}: the Parquet file cannot be read: {error}") from error
    cells = zip(*(column.to_pylist() for column in table.columns), strict=True)
    records = [(f"{path}, row {number}", list(row)) for number, row in enumerate(cells, 1)]
    return read_records(source, list(table.column_names), records)


def read_records(source: ListSource, header: list[str], records: list[tuple[str, list[Any]]]) -> Listing:
    """Read the rows of any table.

    Args:
        source: The list.
        header: Names of the columns.
        records: (location for error messages, one cell per column) of each row.

    Raises:
        InputError: The table is invalid, with row and column.
    """
    columns, ignored = _columns(source.path, header)
    notes = (f"columns that are not used: {', '.join(ignored)}",) if ignored else ()
    return _read(_Table(source.path, header, columns, records, notes), source.root, source.classes)


def csv_text(rows: Iterable[Iterable[str]]) -> str:
    """Return a CSV that `read_csv` reads back, cell by cell."""
    return "".join(",".join(map(_quote, cells)) + "\n" for cells in rows)


def join_labels(labels: Iterable[str]) -> str:
    """Join labels into one cell with `|` between them; `|`, `;` and backslashes in a label are escaped."""
    return "|".join(re.sub(r"([\\|;])", r"\\\1", label) for label in labels)


def _csv_records(path: str, text: str, delimiter: str) -> Iterator[tuple[str, list[str]]]:
    # Strict: otherwise an unclosed quote would include the rest of the file in its cell.
    reader = csv.reader(
        io.StringIO(text, newline=""), delimiter=delimiter, skipinitialspace=True, strict=True
    )
    columns = 0
    while True:
        where = f"{path}, line {reader.line_num + 1}"
        try:
            cells = next(reader, None)
        except csv.Error as error:
            raise InputError(
                f"{where}: the file is not valid CSV ({error}): are its quotes closed?"
            ) from error
        if cells is None:
            return
        if not any(cells):
            continue
        columns = columns or len(cells)
        if len(cells) != columns:
            raise InputError(
                f"{where}: the row must have {columns} cells as the header, got {len(cells)}; "
                f'quote a cell that has {delimiter!r} in it: "a{delimiter} b"'
            )
        yield where, cells


def _columns(path: str, header: list[str]) -> tuple[dict[str, int], list[str]]:
    """Return (name of each known column -> its index, names of unused columns).

    Raises:
        InputError: The header lacks a column, has two columns for the same value, or has a column that looks
            misspelled or limits videos to parts in an unknown unit.
    """
    columns: dict[str, int] = {}
    unknown: list[str] = []
    for index, name in enumerate(header):
        known = COLUMNS.get(_normalize_name(name))
        if known is None:
            unknown.append(name)
        elif known not in columns or (known == "group" and _normalize_name(name) == "group"):
            columns[known] = index
        elif known != "group" or _normalize_name(header[columns[known]]) != "group":
            raise InputError(
                f"{path}, header: {header[columns[known]]!r} and {name!r} are both columns for the {known}: "
                "remove one" + (", or rename the one to use to 'group'" if known == "group" else "")
            )
    kinetics = "youtube_id" in map(_normalize_name, header)
    for name in unknown:
        _reject_ambiguous(path, name, columns, header)
    for required in ("path", "label", "start", "end")[: 4 if kinetics else 2]:
        if required not in columns:
            cure = "; the published test lists have no labels" if kinetics else ""
            raise InputError(
                f"{path}, header: a column {required!r} is required, got {', '.join(header)}: "
                f"rename yours{cure}"
            )
    ignored = [
        name
        for name in unknown
        if not _INDEX.fullmatch(_normalize_name(name)) and _normalize_name(name) != "is_cc"
    ]
    return columns, ignored


def _reject_ambiguous(path: str, name: str, columns: Collection[str], header: list[str]) -> None:
    """Raise InputError for an unknown column that may be a misspelled one, or times in another unit."""
    missing = [column for column in _OFTEN_MISSPELLED if COLUMNS[column] not in columns]
    if suggestion := did_you_mean(_normalize_name(name), missing, cutoff=0.8):
        raise InputError(f"{path}, header: unknown column {name!r}: {suggestion} Otherwise rename it")
    limit = next((column for column, form in _LIMITS.items() if form.fullmatch(_normalize_name(name))), None)
    # The videos of Diving48 are cut already: its frame numbers are those of the whole file.
    if limit and limit not in columns and "vid_name" not in map(_normalize_name, header):
        raise InputError(
            f"{path}, header: the column {name!r} is not supported: parts of videos must be in seconds or "
            "mm:ss, in columns named 'start' and 'end'; remove it to use whole videos"
        )


def _read(table: _Table, root: str, classes: Collection[str]) -> Listing:
    known = set(classes)
    column = table.columns["label"]
    is_optional = _normalize_name(table.header[column]) in _MULTI_LABEL_COLUMNS
    separator, has_several = _separator([cells[column] for _, cells in table.records], known)
    rows = []
    for where, cells in table.records:
        labels = _labels(cells[column], separator, known, f"{where}, {table.at('label')}")
        if not labels and not is_optional:
            raise InputError(
                f"{where}, {table.at('label')}: the label must not be empty "
                "(if a video may have no label, rename the column to 'labels')"
            )
        rows.append(_row(table, where, cells, labels, root))
    if table.video_id_column:
        rows = resolve_path(rows, root)
    return Listing(source=table.path, rows=rows, multi_label=has_several or is_optional, notes=table.notes)


def _row(table: _Table, where: str, cells: list[Any], labels: tuple[str, ...], root: str) -> Row:
    path = table.cell(cells, "path")
    if not isinstance(path, str) or not path:
        raise InputError(f"{where}, {table.at('path')}: the path must be the path of a video, got {path!r}")
    start, end = (
        parse_seconds(table.cell(cells, name), f"{where}, {table.at(name)}")
        if name in table.columns
        else None
        for name in ("start", "end")
    )
    if end is not None:
        require_order(start, end, f"{where}, {table.at('end')}")
    split = table.cell(cells, "split")
    split = parse_split(split, f"{where}, {table.at('split')}") if "split" in table.columns else None
    group = table.cell(cells, "group")
    group = None if group is None or str(group).strip() == "" else str(group).strip()
    if table.video_id_column != "youtube_id":
        path = f"{path}.mp4" if table.video_id_column else path
        return Row(path_below(root, path), labels, where, start, end, split, group)
    if start is None or end is None:
        raise InputError(
            f"{where}: {'start' if start is None else 'end'} must be in seconds, got an empty cell"
        )
    # The files are already cut to the parts, and their names include the times, as in the archives of
    # github.com/cvdfoundation/kinetics-dataset, the crawler of ActivityNet, and MMAction2.
    name = f"{path}_{int(start):06d}_{int(end):06d}.mp4"
    return Row(os.path.join(root, name), labels, where, split=split, group=group or path)


def _separator(cells: Iterable[object], known: Collection[str]) -> tuple[str, bool]:
    """Return the separator between labels, `|` or else `;`, and whether any cell has several labels."""
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
        raise InputError(f"{where}: labels must not be empty, got {cell!r}")
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


def _normalize_name(name: object) -> str:
    return str(name).strip().strip('"').lower()


def _quote(cell: str) -> str:
    return '"' + cell.replace('"', '""') + '"' if re.search(r'[",\r\n]|^ ', cell) else cell
