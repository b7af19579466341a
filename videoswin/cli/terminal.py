"""Print predictions, reports and tables as text for people or as JSON for programs."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from videoswin._text import dump_json, printable

if TYPE_CHECKING:
    from videoswin.inference.prediction import Prediction

_STYLES: Final = {
    r"^problem: .*$": "red",
    r"^warning: .*$": "yellow",
    r"^  warning: .*$": "yellow",
    r"^damaged: .*$": "yellow",
    r"^cannot be read, and count as wrong: .*$": "red",
}
"""Styles of the lines that match a regular expression."""


def print_prediction(prediction: Prediction, top: int, *, as_json: bool = False) -> None:
    """Print the most probable classes of a video; notes go to stderr.

    Args:
        prediction: The prediction of one video.
        top: Number of classes.
        as_json: Print one JSON object instead of text with bars.
    """
    if as_json:
        print(prediction.to_json(top), flush=True)
    else:
        print_text(prediction.to_text(top), printable(prediction.path))
        if prediction.damage:
            print_to_stderr(f"{prediction.path}: {prediction.damage}")
    for note in prediction.notes:
        print_to_stderr(f"{prediction.path}: {note}")


def print_failure(path: str, reason: str, *, as_json: bool) -> None:
    """Print why a video has no prediction: as JSON to stdout, or as one line to stderr."""
    if as_json:
        print_json({"path": path, "error": reason})
    else:
        print_to_stderr(f"{path}: {reason}")


def print_models(rows: list[dict[str, Any]], folder: str) -> None:
    """Print the table of models.

    Args:
        rows: The rows of `list_models`, as `videoswin models --json` prints them.
        folder: Folder of the downloads.
    """
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False)
    for column in ("name", "classes", "top-1", "protocol", "license", "MB", "downloaded"):
        table.add_column(column, no_wrap=True)
    for row in rows:
        score = next(iter(row["scores"]), {"top1": "", "protocol": ""})
        here = "yes" if row["file"] else ""
        cells = (score["top1"], score["protocol"], row["license"], row["size_mb"] or "", here)
        table.add_row(printable(row["name"]), row["labels"] or "", *map(str, cells))
    # A file or a pipe has no width.
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 120)
    console.print(table)
    console.print(
        "Scores are quoted from the publishers; none was measured here. "
        "Models without a score are for initialization."
    )
    console.print(Text(f"Downloads go to {printable(folder)}."), soft_wrap=True)


def print_rows(
    rows: list[dict[str, Any]],
    *,
    as_json: bool,
    print_text: Callable[[list[dict[str, Any]]], None] | None = None,
) -> None:
    """Print rows as one JSON object per line, or as a table.

    Args:
        rows: Rows with the same keys.
        as_json: Print JSON.
        print_text: Prints the rows as text; None is `print_table`.
    """
    if as_json:
        for row in rows:
            print_json(row)
    else:
        (print_text or print_table)(rows)


def print_table(rows: Sequence[Mapping[str, Any]]) -> None:
    """Print rows with the same keys as columns; the last column is wrapped to the width of the terminal."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False)
    *names, last = rows[0]
    for name in names:
        table.add_column(name, no_wrap=True)
    table.add_column(last)
    for row in rows:
        *cells, description = (printable(str(value)) for value in row.values())
        table.add_row(*(Text(_shorten(cell)) for cell in cells), Text(description))
    # A file or a pipe has no width.
    Console(highlight=False, width=None if sys.stdout.isatty() else 160).print(table)


def _shorten(text: str, width: int = 44) -> str:
    return text if len(text) <= width else f"{text[: width - 3]}..."


def print_text(text: str, title: str) -> None:
    """Print lines with styles; bars are drawn with `#` if the terminal has no block characters.

    Args:
        text: The lines, which must be safe for a terminal.
        title: Start of the first line, which is printed in bold.
    """
    from rich.console import Console
    from rich.text import Text

    console = Console(soft_wrap=True, highlight=False)
    styled = Text(text if "█".encode(console.encoding, "ignore") else text.replace("█", "#"))
    if text.startswith(title):
        styled.stylize("bold", 0, len(title))
    for pattern, style in _STYLES.items():
        styled.highlight_regex(re.compile(pattern, re.MULTILINE), style)
    console.print(styled)


def print_json(fields: dict[str, Any]) -> None:
    """Print a JSON object on one line."""
    print(dump_json(fields), flush=True)


def print_to_stderr(line: str) -> None:
    """Print one line to stderr, with control characters escaped."""
    print(printable(line), file=sys.stderr, flush=True)
