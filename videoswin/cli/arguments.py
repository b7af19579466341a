"""Build the argument parser of the commands from their signatures and docstrings."""

from __future__ import annotations

import argparse
import inspect
import types
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Annotated, Any, Final, Literal, NoReturn, Union, get_args, get_origin, get_type_hints

from docstring_parser import parse as parse_docstring

from videoswin import __version__
from videoswin._text import did_you_mean, printable

_METAVARS: Final[Mapping[Any, str]] = MappingProxyType({int: "N", float: "X"})


COMMON_OPTIONS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "protocol": "Views (see `videoswin protocols`); by default those of the model.",
        "device": "auto, cpu, cuda, cuda:1, mps.",
        "root": "Base folder of the paths in a list.",
        "workers": "Number of decoding processes.",
        "license": "Accept this license of restricted weights.",
        "trust": "Allow a .pt2 file that can run code.",
    }
)
"""Help of options that mean the same in every command; a command may describe its own."""


@dataclass(frozen=True, eq=False)  # a table has no hash, which `| None` needs
class Choices:
    """The allowed values of an option whose values are not fixed text: Annotated[str, Choices(TABLE)]."""

    values: Iterable[str]


def command_line(commands: Sequence[Callable[..., int]]) -> argparse.ArgumentParser:
    """Return the argument parser of `videoswin COMMAND ...`.

    Args:
        commands: Functions with type hints and a Google-style docstring. Keyword-only parameters become
            options, all others positional arguments.

    Returns:
        A parser whose namespace has the chosen function as `command`, and the arguments of that function.
    """
    parser = _Parser(
        prog="videoswin",
        description="Video Swin Transformer: predict, train, evaluate and export.\n\n"
        "Example: videoswin predict clip.mp4 --model camera-motion",
    )
    parser.add_argument("--version", action="version", version=f"videoswin {__version__}")
    subparsers = parser.add_subparsers(
        title="commands",
        metavar="COMMAND",
        required=True,
        parser_class=_Parser,
        description="`videoswin COMMAND --help` lists the options of a command.",
    )
    for command in commands:
        docstring = parse_docstring(inspect.getdoc(command) or "")
        subparser = subparsers.add_parser(
            command.__name__,
            help=docstring.short_description,
            description=f"{docstring.short_description}\n\n{docstring.long_description}",
        )
        subparser.set_defaults(command=command)
        helps = {argument.arg_name: argument.description or "" for argument in docstring.params}
        hints = get_type_hints(command, include_extras=True)
        for parameter in inspect.signature(command).parameters.values():
            text = helps.get(parameter.name) or COMMON_OPTIONS[parameter.name]
            _add_argument(subparser, parameter, hints[parameter.name], text)
        subparser.usage = _usage(subparser)
    return parser


class _Parser(argparse.ArgumentParser):
    """A parser whose errors are one line with the command and, for a typo, the most similar option."""

    def __init__(self, **options: Any) -> None:
        super().__init__(formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False, **options)

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> tuple[Any, list[str]]:
        # Also called for subparsers, so that the error names the command with the unknown option.
        namespace, unknown = super().parse_known_args(args, namespace)
        if unknown:
            option = unknown[0].partition("=")[0]
            suggestion = did_you_mean(option, self._option_string_actions)
            self.error(f"unrecognized arguments: {' '.join(unknown)}{suggestion and f'; {suggestion}'}")
        return namespace, unknown

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {printable(message)} (see `{self.prog} --help`)\n")


def _usage(parser: argparse.ArgumentParser) -> str:
    """Return one line with the positional arguments and the required options; the others are listed below."""
    words = [parser.prog]
    for action in parser._actions:
        if action.required or not action.option_strings:
            word = f"{action.option_strings[0]} {action.metavar}" if action.option_strings else action.metavar
            words.append(f"{word}" if action.required else f"[{word}]")
    return " ".join([*words, "[options]"])


def _add_argument(
    parser: argparse.ArgumentParser, parameter: inspect.Parameter, hint: Any, description: str
) -> None:
    """Add the positional argument or the option of a parameter of a command."""
    name, default = parameter.name, parameter.default
    required = default is inspect.Parameter.empty
    if get_origin(hint) in (Union, types.UnionType):  # `X | None`: None if the option is not given
        (hint,) = (choice for choice in get_args(hint) if choice is not type(None))
    if parameter.kind is not inspect.Parameter.KEYWORD_ONLY:
        nargs = "+" if hint == list[str] else None if required else "?"
        parser.add_argument(name, nargs=nargs, metavar=name.rstrip("s").upper(), help=description)
        return
    option = f"--{name.rstrip('_').replace('_', '-')}"
    if hint is bool:
        parser.add_argument(option, dest=name, action="store_true", help=description)
        return
    if hint == list[str]:
        parser.add_argument(
            option, dest=name, action="append", default=[], metavar="A.B=VALUE", help=description
        )
        return
    choices = get_args(hint) if get_origin(hint) is Literal else None
    if get_origin(hint) is Annotated:
        hint, annotation = get_args(hint)
        choices = tuple(annotation.values)
    if not required and default is not None:
        description += f" (default: {default})"
    parser.add_argument(
        option,
        dest=name,
        type=str if choices else _parse_three_integers if get_origin(hint) is tuple else hint,
        choices=choices,
        required=required,
        default=None if required else default,
        metavar=None if choices else _METAVARS.get(hint, option[2:].upper()),
        help=description,
    )


def _parse_three_integers(text: str) -> tuple[int, ...]:
    """Return three integers from text such as `16,7,7`."""
    try:
        first, second, third = map(int, text.strip("[]()").split(","))
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"must be three whole numbers, e.g. 16,7,7, got {text!r}") from error
    return first, second, third
