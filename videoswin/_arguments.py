"""Commands as functions: options and help of each follow from its signature and its docstring."""

import argparse
import inspect
import re
from collections.abc import Callable, Sequence
from typing import get_type_hints

from docstring_parser import parse as parse_docstring
from jsonargparse import ArgumentParser, DefaultHelpFormatter


def command_line(commands: Sequence[Callable[..., int]]) -> ArgumentParser:
    """The parser of `videoswin COMMAND ...`; it gives the command's name and its arguments, checked."""
    # The commands' parsers take their formatter from this one.
    parser = ArgumentParser(
        prog="videoswin",
        allow_abbrev=False,
        formatter_class=_HelpFormatter,
        description="A video file goes in, actions come out.\n\n"
        "Example: videoswin predict clip.mp4 --model camera-motion",
    )
    subcommands = parser.add_subcommands(
        title="commands", metavar="COMMAND", description="`videoswin COMMAND --help` says more."
    )
    for command in commands:
        subcommands.add_subcommand(command.__name__, _command_parser(command), help=_first_line(command))
    return parser


class _HelpFormatter(argparse.RawDescriptionHelpFormatter, DefaultHelpFormatter):
    """Keep the line breaks of a docstring, and of types and defaults what a person at a shell wants."""

    def _expand_help(self, action: argparse.Action) -> str:
        text = super()._expand_help(action)
        facts = re.search(r" \((required, )?type: [^()]*?(, default: (.*))?\)$", text)
        if facts is not None:
            text = text[: facts.start()] + (f" (default: {facts[3]})" if facts[3] else "")
        return re.sub(r" \((required|default: (null|False|\[\]))\)$", "", text)


def _command_parser(command: Callable[..., int]) -> ArgumentParser:
    """The options of a command: its signature, with the help of its docstring."""
    docstring = parse_docstring(inspect.getdoc(command) or "")
    parser = ArgumentParser(
        allow_abbrev=False,
        description=f"{docstring.short_description}\n\n{docstring.long_description}",
    )
    hints = get_type_hints(command)
    helps = {argument.arg_name: argument.description for argument in docstring.params}
    defaults = {n: parameter.default for n, parameter in inspect.signature(command).parameters.items()}
    # Habits of a shell that a signature cannot say: several paths in a row, an option given several times,
    # a bare --flag, dashes, Python's own words.
    lists = [n for n, hint in hints.items() if hint == list[str]]
    for name in (several := [n for n in lists if defaults[n] is inspect.Parameter.empty]):
        parser.add_argument(name, nargs="+", metavar="PATH", help=helps[name])
    for name in (repeated := [n for n in lists if n not in several]):
        parser.add_argument(f"--{name}", action="append", default=[], metavar="A.B=VALUE", help=helps[name])
    for name in (flags := [n for n, hint in hints.items() if hint is bool]):
        parser.add_argument(f"--{name}", action="store_true", help=helps[name])
    for name in (dashed := [n for n in hints if "_" in n]):
        option = f"--{name.rstrip('_').replace('_', '-')}"
        parser.add_argument(
            option,
            dest=name,
            type=hints[name],
            default=defaults[name],
            metavar=option[2:].upper(),
            help=helps[name],
        )
    own: set[str | int] = {*several, *repeated, *flags, *dashed}
    parser.add_function_arguments(command, as_group=False, as_positional=True, skip=own)
    return parser


def _first_line(command: Callable[..., int]) -> str:
    return (inspect.getdoc(command) or "").partition("\n")[0]
