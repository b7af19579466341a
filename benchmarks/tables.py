"""Format results as Markdown."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

Figures = dict[str, Any]
"""Contents of one result file, or one of its rows."""


def table(heads: str, alignment: str, lines: Iterable[Iterable[object]]) -> str:
    """Return a Markdown table; `alignment` has one letter per column, l or r."""
    rule = "|".join("---:" if side == "r" else "---" for side in alignment)
    rows = ("| " + " | ".join(map(str, line)) + " |" for line in lines)
    return "\n".join([f"| {heads} |", f"|{rule}|", *rows])


def span(ends: tuple[float, float], form: str) -> str:
    low, high = ends
    return f"{low:{form}} to {high:{form}}"
