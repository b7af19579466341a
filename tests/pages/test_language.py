"""README, pages, help texts and descriptions of settings are in the standard terms of the field."""

import ast
import re
from pathlib import Path

import pytest

from videoswin.cli.arguments import command_line
from videoswin.cli.commands import COMMANDS
from videoswin.recipes import RECIPES, describe_recipe

ROOT = Path(__file__).parents[2]
PAGES = (
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "benchmarks/README.md", "benchmarks/LOG.md")),
    *sorted((ROOT / "docs").glob("*.md")),
)
"""CHANGELOG.md is exempt, because it has old names."""

REFUSED = {
    r"licence[sd]?": "license",
    r"colour\w*": "color",
    r"centre\w*": "center",
    r"neighbour\w*": "neighbor",
    r"behaviour\w*": "behavior",
    r"(normal|recogn|initial|optim|factor|material|organ)is(e[ds]?|ing|ation)": "-ize",
    r"labelled|labelling": "labeled",
    r"wanted": "must be, requested",
    r"anew": "again",
    r"whoever|whosoever": "if you",
    r"likeliest": "most probable, top-1",
    r"goes on|go on": "resumes",
    r"named right": "correct, accuracy",
    r"by heart": "memorized",
    r"at nothing|from nothing": "from scratch",
    r"in bearable time": "the time",
    r"films?": "video",
    r"made up": "synthetic",
    r"first weights": "initialization",
    r"what learns|that learn": "trainable parameters",
    r"not measured yet": "results only",
    r"the whole way": "the workflow",
    r"believed|believable": "verified, plausible",
    r"to and fro": "back and forth",
    r"earlier versions?|no longer|formerly": "the present state only; history is in CHANGELOG.md",
}
"""Words and spellings that have a standard term -> that term."""
PATTERN = re.compile("|".join(rf"\b(?:{words})\b" for words in REFUSED), re.IGNORECASE)


def refused_words(text: str) -> list[str]:
    """Return the refused words of a text with the line that each is in; code blocks count, too."""
    return [
        f"{found[0]!r} in: {line.strip()[:100]}"
        for line in text.splitlines()
        for found in PATTERN.finditer(line)
    ]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_pages_use_standard_terms(page: Path) -> None:
    assert refused_words(page.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize("script", sorted((ROOT / "benchmarks").glob("*.py")), ids=lambda script: script.stem)
def test_help_texts_of_benchmarks_use_standard_terms(script: Path) -> None:
    assert refused_words(ast.get_docstring(ast.parse(script.read_text(encoding="utf-8"))) or "") == []


@pytest.mark.parametrize("command", [None, *(command.__name__ for command in COMMANDS)])
def test_help_texts_use_standard_terms(command: str | None, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        command_line(COMMANDS).parse_args(["--help"] if command is None else [command, "--help"])
    assert refused_words(capsys.readouterr().out) == []


@pytest.mark.parametrize("recipe", sorted(RECIPES))
def test_descriptions_of_settings_use_standard_terms(recipe: str) -> None:
    for row in describe_recipe(recipe):
        assert refused_words(f"{row['setting']}: {row['description']}") == []


@pytest.mark.parametrize("text", ["the Licence", "normalisation", "wanted 3", "a run goes on", "films"])
def test_old_words_are_found(text: str) -> None:
    assert refused_words(text)


@pytest.mark.parametrize("text", ["license", "center", "filmstrip", "otherwise", "unwanted", "exercise"])
def test_other_words_are_not(text: str) -> None:
    assert not refused_words(text)
