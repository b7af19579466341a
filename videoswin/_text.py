"""Make untrusted text safe to print in a terminal and to open in a spreadsheet.

Terminals interpret escape sequences, a newline can fake a line of output, and bidirectional controls can
disguise text. Letters of all scripts, emoji and right-to-left text are not changed.
"""

from __future__ import annotations

import difflib
import json
import unicodedata
from collections.abc import Iterable, Sequence
from typing import Any, Final

# Joiners are needed for letters (Persian, Indic scripts) and emoji; the other characters here are visible,
# Unicode's Prepended_Concatenation_Mark. All others of category Cf are invisible or bidirectional controls.
_ALLOWED_FORMAT: Final = frozenset("\u200c\u200d\u06dd\u070f\u0890\u0891\u08e2\U000110bd\U000110cd") | {
    chr(code) for code in range(0x0600, 0x0606)
}
# Invisible fillers and selectors, which only change the appearance of other characters.
_BLANKS: Final = frozenset(" \u034f\u115f\u1160\u17b4\u17b5\u200c\u200d\u2800\u3164\uffa0") | {
    chr(code) for start, end in ((0xFE00, 0xFE10), (0xE0100, 0xE01F0)) for code in range(start, end)
}
# Control and format characters, surrogates (undecodable bytes of a file name), line separators.
_REFUSED_CATEGORIES: Final = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})
# The last four are full-width forms, which East Asian spreadsheets also interpret as formulas.
_FORMULA_STARTS: Final = ("=", "+", "-", "@", "\t", "\r", "\n", "\uff1d", "\uff0b", "\uff0d", "\uff20")

BAR_WIDTH: Final = 24
"""Characters of the bar of a fraction of 1."""
LINES_PER_LIST: Final = 5
"""Lines of a list that are shown as text; the JSON has all of them."""


def is_printable_name(text: str) -> bool:
    """Return whether `text` is allowed as the name of a class or a model.

    Args:
        text: The name. Unassigned code points are allowed: they may be letters of a later Unicode version.

    Returns:
        False if it is blank, or has a control character, a line separator, a bidirectional control, another
        invisible format character or a lone surrogate.
    """
    is_visible = not _BLANKS.issuperset(text) and bool(text.strip())
    return is_visible and (text.isprintable() or all(map(_is_printable, text)))


def printable(text: str) -> str:
    r"""Escape everything in `text` that a terminal would interpret or hide, for example as `\x1b`.

    Args:
        text: Any text, such as a file name, a label or an error message.

    Returns:
        One line. Printable text, including backslashes, is unchanged.
    """
    return "".join(
        char if _is_printable(char) else char.encode("unicode_escape").decode("ascii") for char in text
    )


def dump_json(value: Any, *, indent: int | None = None) -> str:
    """Serialize `value` as JSON that is safe to print in a terminal.

    Args:
        value: Any argument of `json.dumps`.
        indent: As in `json.dumps`; None is one line.

    Returns:
        JSON with text of all scripts; characters that `printable` would escape are JSON escapes.
    """
    text = json.dumps(value, ensure_ascii=False, indent=indent)
    # Newlines are between values: JSON escapes them inside strings.
    return "".join(char if char == "\n" or _is_printable(char) else json.dumps(char)[1:-1] for char in text)


def plural(count: int, noun: str) -> str:
    """Format a count with its noun: `1 class`, `2 classes`, `1,200 videos`.

    Args:
        count: The count.
        noun: The noun in the singular; its plural must be regular.
    """
    ending = "" if count == 1 else "es" if noun.endswith(("s", "ch")) else "s"
    return f"{count:,} {noun}{ending}"


def first_few(names: Sequence[str], count: int = 3, *, last: str = ", ") -> str:
    """Return the first names as text: `a, b, c and 7 more`.

    Args:
        names: Any number of names.
        count: Maximum number of names in the text.
        last: What is between the last two names if all are in the text; with " and ", it is `a, b and c`.
    """
    if (more := len(names) - count) > 0:
        return f"{', '.join(names[:count])} and {more} more"
    return last.join(filter(None, (", ".join(names[:-1]), *names[-1:])))


def did_you_mean(name: str, known: Iterable[str], *, count: int = 1, cutoff: float = 0.6) -> str:
    """Return a question such as `did you mean 'wave'?`, or an empty text if nothing known is similar.

    Args:
        name: What was given.
        known: Names that are allowed.
        count: Maximum number of suggestions.
        cutoff: Minimum similarity from 0 to 1, as in `difflib.get_close_matches`.
    """
    return ask_if_meant(similar_names(name, known, count=count, cutoff=cutoff))


def similar_names(name: str, known: Iterable[str], *, count: int = 1, cutoff: float = 0.6) -> list[str]:
    """Return the known names that are most similar to `name`, as `did_you_mean` suggests them.

    Args:
        name: What was given.
        known: Names that are allowed.
        count: Maximum number of names to return.
        cutoff: Minimum similarity from 0 to 1, as in `difflib.get_close_matches`.
    """
    return difflib.get_close_matches(name, list(known), n=count, cutoff=cutoff)


def ask_if_meant(names: Sequence[str]) -> str:
    """Return the question of `did_you_mean` for names that were found similar."""
    return f"did you mean {' or '.join(map(repr, names))}?" if names else ""


def in_one_line(failure: Exception) -> str:
    """Return the type of an exception and the start of its message in one line."""
    return f"{type(failure).__name__}: {' '.join(str(failure).split())[:200]}"


def draw_bar(fraction: float) -> str:
    """Return a bar of 0 to BAR_WIDTH characters for a fraction from 0 to 1."""
    return "█" * round(BAR_WIDTH * fraction)


def truncate(lines: Sequence[str]) -> list[str]:
    """Return the first LINES_PER_LIST lines of a text, and a line with the number of the others."""
    more = len(lines) - LINES_PER_LIST
    return [*lines[:LINES_PER_LIST], *([f"and {more} more"] if more > 0 else [])]


def csv_cell(text: str) -> str:
    """Prefix `text` with an apostrophe if a spreadsheet would interpret it as a formula.

    Use it only for tables for people; cells of lists that the package reads must not be changed.
    """
    return f"'{text}" if text.startswith(_FORMULA_STARTS) else text


def _is_printable(char: str) -> bool:
    return unicodedata.category(char) not in _REFUSED_CATEGORIES or char in _ALLOWED_FORMAT
