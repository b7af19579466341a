"""What a person sees on the terminal, and what a program reads there."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from videoswin.predict import Prediction

BAR_WIDTH = 24


def print_prediction(prediction: Prediction, top: int) -> None:
    """The `top` likeliest labels of one video with bars; damage of the file goes to stderr."""
    from rich.console import Console
    from rich.text import Text

    console = Console(soft_wrap=True, highlight=False)
    facts = f"{prediction.duration_seconds:.1f} s, {prediction.model}, {prediction.protocol}"
    console.print(Text.assemble((prediction.path, "bold"), f"  {facts}"))
    ranking = prediction.top(top)
    width = max(len(label) for label, _ in ranking)
    block = "█" if "█".encode(console.encoding, "ignore") else "#"
    for label, probability in ranking:
        bar = block * round(BAR_WIDTH * probability)
        console.print(Text(f"  {label:{width}}  {bar:{BAR_WIDTH}} {100 * probability:5.1f} %"))
    if prediction.damage:
        print_to_stderr(f"{prediction.path}: {prediction.damage}")


def print_failure(path: str, reason: str, *, as_json: bool) -> None:
    """A video without an answer, and why."""
    if as_json:
        print_json({"path": path, "error": reason})
    else:
        print_to_stderr(f"{path}: {reason}")


def print_models(rows: list[dict[str, Any]], folder: str) -> None:
    """The table of weights; rows as `videoswin models --json` prints them."""
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for column in ("name", "classes", "top-1", "protocol", "licence", "MB", "here"):
        table.add_column(column, no_wrap=True)
    for row in rows:
        score = next(iter(row["scores"]), {"top1": "", "protocol": ""})
        here = "yes" if row["file"] else ""
        cells = (score["top1"], score["protocol"], row["licence"], row["size_mb"] or "", here)
        table.add_row(row["name"], row["labels"] or "", *map(str, cells))
    # A file or a pipe has no width to keep to.
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 120)
    console.print(table)
    console.print("Scores are those published, not measured by us; without one it is a start for training.")
    console.print(f"Downloads go to {folder}.", soft_wrap=True)


def print_json(fields: dict[str, Any]) -> None:
    """One object on one line."""
    print(json.dumps(fields, ensure_ascii=False), flush=True)


def print_to_stderr(line: str) -> None:
    """One line for whoever watches, out of the way of the output."""
    print(line, file=sys.stderr, flush=True)
