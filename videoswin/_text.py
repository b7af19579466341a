"""Text from outside the package, made safe to print in a terminal and to open in a spreadsheet.

A terminal obeys escape sequences, a newline forges a line of output, and bidirectional controls make text
read as something else than it is. Letters of every script, emoji and right-to-left text are left alone.
"""

from __future__ import annotations

import json
import unicodedata
from typing import Any, Final

# Joiners shape letters (Persian, Indic scripts) and emoji; the other characters here are visible signs,
# Unicode's Prepended_Concatenation_Mark. What is left of category Cf is invisible or a bidirectional control.
_ALLOWED_FORMAT: Final = frozenset("\u200c\u200d\u06dd\u070f\u0890\u0891\u08e2\U000110bd\U000110cd") | {
    chr(code) for code in range(0x0600, 0x0606)
}
# Invisible fillers and selectors, which only change the look of other characters.
_BLANKS: Final = frozenset(" \u034f\u115f\u1160\u17b4\u17b5\u200c\u200d\u2800\u3164\uffa0") | {
    chr(code) for start, end in ((0xFE00, 0xFE10), (0xE0100, 0xE01F0)) for code in range(start, end)
}
# Control and format characters, surrogates (bytes of a file name that are no text), line separators.
_REFUSED_CATEGORIES: Final = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})
# The last four are the full-width forms, which East Asian spreadsheets take for formulas, too.
_FORMULA_STARTS: Final = ("=", "+", "-", "@", "\t", "\r", "\n", "\uff1d", "\uff0b", "\uff0d", "\uff20")


def is_printable_name(text: str) -> bool:
    """Return whether `text` may name a class or a model.

    Args:
        text: The name. Unassigned code points are allowed: they may be letters of a later Unicode version.

    Returns:
        False if it is blank, or holds a control character, a line separator, a bidirectional control, another
        invisible format character or a lone surrogate.
    """
    is_visible = not _BLANKS.issuperset(text) and bool(text.strip())
    return is_visible and (text.isprintable() or all(map(_is_printable, text)))


def printable(text: str) -> str:
    r"""Return `text` with everything that a terminal would obey or hide written as an escape such as `\x1b`.

    Args:
        text: Any text, such as a file name, a label or an error message with either in it.

    Returns:
        One line. Printable text, which may contain backslashes, is returned as it is.
    """
    return "".join(
        char if _is_printable(char) else char.encode("unicode_escape").decode("ascii") for char in text
    )


def dump_json(value: Any, *, indent: int | None = None) -> str:
    """Return `value` as JSON that is harmless to print and reads back as it was.

    Args:
        value: Anything that `json.dumps` takes.
        indent: As in `json.dumps`; None is one line.

    Returns:
        Text of every script stays as it is; what `printable` would escape is an equivalent JSON escape.
    """
    text = json.dumps(value, ensure_ascii=False, indent=indent)
    # A newline is one between values: inside of strings JSON has it escaped.
    return "".join(char if char == "\n" or _is_printable(char) else json.dumps(char)[1:-1] for char in text)


def plural(count: int, noun: str) -> str:
    """Return a count with its noun: `1 class`, `2 classes`, `1,200 videos`.

    Args:
        count: How many there are.
        noun: What is counted, in the singular; the plural must be regular.
    """
    ending = "" if count == 1 else "es" if noun.endswith(("s", "ch")) else "s"
    return f"{count:,} {noun}{ending}"


def csv_cell(text: str) -> str:
    """Return `text` such that no spreadsheet takes it for a formula: with an apostrophe in front if needed.

    Only for tables that people read. A list that the package reads back must keep its cells as they are.
    """
    return f"'{text}" if text.startswith(_FORMULA_STARTS) else text


def _is_printable(char: str) -> bool:
    return unicodedata.category(char) not in _REFUSED_CATEGORIES or char in _ALLOWED_FORMAT
