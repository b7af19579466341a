"""What a terminal or a spreadsheet would obey is refused in names, and escaped or quoted elsewhere."""

import sys
import unicodedata

import pytest

from videoswin._text import csv_cell, first_few, is_printable_name, plural, printable

READABLE = [
    "riding a bike",
    "C:\\videos\\é, with a comma",
    "骑自行车",
    "自転車\u3000に乗る",  # with an ideographic space
    "ركوب الدراجة",
    "רכיבה על אופניים",
    "\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645",  # Persian, with a zero-width non-joiner
    "क्\u200dष",  # Devanagari, with a joiner
    "👩\u200d🚒 firefighter ❤\ufe0f",
    "e\u0301 combining",
    "\u06dd\u0661\u0662",  # the end-of-ayah sign is visible, although of category Cf
    "no-break\u00a0space",
    "\U0001fadf of a later Unicode",
]
OBEYED = {
    "\n": "\\n",
    "\r": "\\r",
    "\t": "\\t",
    "\0": "\\x00",
    "\x1b": "\\x1b",
    "\x7f": "\\x7f",
    "\x85": "\\x85",  # next line
    "\x9b": "\\x9b",  # starts an escape sequence in one character
    "\u061c": "\\u061c",
    "\u200e": "\\u200e",
    "\u200f": "\\u200f",
    "\u2028": "\\u2028",
    "\u2029": "\\u2029",
    "\u202a": "\\u202a",
    "\u202e": "\\u202e",
    "\u2066": "\\u2066",
    "\u2069": "\\u2069",
    "\u206f": "\\u206f",
    "\u200b": "\\u200b",  # invisible: two labels could look the same
    "\ufeff": "\\ufeff",
    "\U000e0041": "\\U000e0041",
    "\udcff": "\\udcff",  # a byte of a file name that is no text
}


@pytest.mark.parametrize("text", READABLE)
def test_text_of_any_script_is_a_name_and_printed_as_it_is(text: str) -> None:
    assert is_printable_name(text)
    assert printable(text) == text


@pytest.mark.parametrize(("char", "escape"), OBEYED.items(), ids=OBEYED.values())
def test_controls_are_refused_in_names_and_escaped_in_output(char: str, escape: str) -> None:
    assert not is_printable_name(f"a{char}b")
    assert printable(f"a{char}b") == f"a{escape}b"


@pytest.mark.parametrize("text", ["", " ", "\u3000"])
def test_blank_text_is_no_name(text: str) -> None:
    assert not is_printable_name(text)


def test_no_control_of_unicode_survives_printable() -> None:
    text = printable("".join(map(chr, range(sys.maxunicode + 1))))
    assert len(text.splitlines()) == 1
    text.encode("utf-8")  # no lone surrogates
    assert not {unicodedata.category(char) for char in text} & {"Cc", "Cs", "Zl", "Zp"}
    bidi = {"LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI"}
    assert not {unicodedata.bidirectional(char) for char in text} & bidi


def test_a_forged_line_of_output_stays_on_its_own_line() -> None:
    assert printable("a.mp4\n\x1b[32mb.mp4: walking") == "a.mp4\\n\\x1b[32mb.mp4: walking"


@pytest.mark.parametrize("text", ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", "\n=1", "\uff1d1"])
def test_formulas_become_text_in_a_csv_cell(text: str) -> None:
    assert csv_cell(text) == f"'{text}"


@pytest.mark.parametrize("text", ["walk", "run, fast", "1=1", "", "'quoted'"])
def test_other_csv_cells_are_left_alone(text: str) -> None:
    assert csv_cell(text) == text


@pytest.mark.parametrize(
    ("count", "noun", "text"),
    [
        (1, "class", "1 class"),
        (0, "class", "0 classes"),
        (2, "batch", "2 batches"),
        (1, "video", "1 video"),
        (1200, "video", "1,200 videos"),
    ],
)
def test_a_count_agrees_with_its_noun(count: int, noun: str, text: str) -> None:
    assert plural(count, noun) == text


@pytest.mark.parametrize(
    ("names", "listed", "said"),
    [
        ("", "", ""),
        ("a", "a", "a"),
        ("ab", "a, b", "a and b"),
        ("abc", "a, b, c", "a, b and c"),
        ("abcde", "a, b, c and 2 more", "a, b, c and 2 more"),
    ],
)
def test_the_first_names_are_listed_with_the_number_of_the_others(names: str, listed: str, said: str) -> None:
    assert first_few([*names]) == listed
    assert first_few([*names], last=" and ") == said
