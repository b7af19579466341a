"""Convert a recipe to settings, dotted names with JSON values, and change a recipe by settings.

`optimizer.lr` is the setting of `recipe.optimizer.lr`. Fields that are functions, such as
`SyntheticData.clips`, are not settings: they come from the function that builds the recipe.

A parser of jsonargparse over the whole recipe accepts more than the type hints allow: `None` and `true` for a
choice of 1, 3 and `full`, `1e400` as infinity. It also suggests no similar settings and takes about a hundred
times as long.
"""

from __future__ import annotations

import dataclasses
import json
import math
import re
import shlex
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import is_dataclass
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from docstring_parser import parse_from_object

from videoswin._errors import InputError
from videoswin._text import ask_if_meant, similar_names
from videoswin.training.recipe import Recipe

_ALL_SETTINGS = "The recipe.json of any run lists all settings"


def flatten(recipe: Recipe) -> dict[str, Any]:
    """Return all settings of a recipe as JSON values; `with_settings` is the inverse."""
    return dict(_leaves(recipe, ""))


def describe_settings(recipe: Recipe) -> list[dict[str, Any]]:
    """Return a row for each setting of a recipe: name, value in the syntax of `--set`, and description."""
    descriptions = dict(_descriptions(recipe, ""))
    return [
        {"setting": name, "value": _text(value), "description": descriptions.get(name, "")}
        for name, value in flatten(recipe).items()
    ]


def parse_assignments(assignments: Iterable[str]) -> dict[str, str]:
    """Parse assignments such as "optimizer.lr=3e-4" into settings.

    Raises:
        InputError: An assignment has no name or no `=`, or a name occurs twice.
    """
    settings: dict[str, str] = {}
    for assignment in assignments:
        key, equals, value = (part.strip() for part in assignment.partition("="))
        if not (key and equals):
            raise InputError(f"--set must be name=value, such as --set optimizer.lr=3e-4, got {assignment!r}")
        if key in settings:
            raise InputError(f"--set {key} must be given once, got {settings[key]!r} and {value!r}")
        settings[key] = value
    return settings


def parse_settings(recipe: Recipe, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values of settings with the types of their fields, without changing the recipe.

    Args:
        recipe: The recipe that the settings are for.
        settings: Values by name, as text from the command line or as JSON values.

    Raises:
        InputError: A setting does not exist (the message suggests similar ones), or a value has the wrong
            type. Ranges are checked by `with_settings`.
    """
    types = dict(_types(type(recipe), recipe, ""))
    parsed = {}
    for name, value in settings.items():
        if name not in types:
            raise InputError(_describe_unknown(name, list(types), flatten(recipe)))
        try:
            parsed[name] = parse_value(value, types[name])
        except ValueError as error:
            current = flatten(recipe).get(name)
            example = f", as in {_assignment(name, current)}" if _is_example(current) else ""
            raise InputError(
                f"{name} must be {describe_type(types[name])}, got {value!r}{example}"
            ) from error
    return parsed


def with_settings(recipe: Recipe, settings: Mapping[str, Any]) -> Recipe:
    """Return the recipe with some settings changed.

    Args:
        recipe: The recipe to change.
        settings: Values by name, as text from the command line or as JSON values.

    Raises:
        InputError: As for `parse_settings`; or a value is out of range, or values contradict each other.

    Example:
        with_settings(recipe, {"optimizer.lr": "3e-4", "schedule.epochs": 10})
    """
    changed: Recipe = _replace(recipe, Recipe, parse_settings(recipe, settings), "")
    return changed


def parse_value(value: Any, hint: Any) -> Any:
    """Return a value as a type.

    Args:
        value: A JSON value, or text such as "3e-4", "null", "[16, 7, 7]" or "true".
        hint: Type hint: bool, int, float, str, None, or Literals, tuples and unions of them.

    Raises:
        ValueError: The value does not have this type, or is a number that is not finite.
    """
    kinds = union_members(hint)
    if isinstance(value, str):
        # Text is a JSON value if possible; "2024" is a number only where text is not allowed.
        if value in (choice for kind in kinds if get_origin(kind) is Literal for choice in get_args(kind)):
            return value
        if str in kinds and not (value == "null" and NoneType in kinds):
            return value
        try:
            value = json.loads(value)
        except RecursionError as error:
            raise ValueError(value) from error
    for kind in kinds:
        if get_origin(kind) is Literal:
            for choice in get_args(kind):
                if type(value) is type(choice) and value == choice:
                    return choice
        elif get_origin(kind) is tuple and isinstance(value, (list, tuple)):
            members = get_args(kind)
            if members[-1] is Ellipsis:
                members = members[:1] * len(value)
            return tuple(parse_value(v, member) for v, member in zip(value, members, strict=True))
        elif kind is float and type(value) in (int, float) and math.isfinite(value):
            return float(value)
        elif kind in (bool, int, str, NoneType) and type(value) is kind:
            return value
    raise ValueError(value)


def describe_type(hint: Any) -> str:
    """Describe in words which values `parse_value` accepts for a type hint."""
    words = {bool: "true or false", int: "a whole number", float: "a number", str: "text", NoneType: "null"}
    return " or ".join(words.get(kind) or _describe_compound(kind) for kind in union_members(hint))


def union_members(hint: Any) -> tuple[Any, ...]:
    """Return the members of a union, or the hint itself if it is not a union."""
    return get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)


def _describe_compound(kind: Any) -> str:
    members = get_args(kind)
    if is_dataclass(kind):
        return "its fields"
    if get_origin(kind) is Literal:
        return " or ".join(map(str, members))
    return f"[{', '.join('...' if member is Ellipsis else describe_type(member) for member in members)}]"


def _leaves(part: Any, prefix: str) -> Iterator[tuple[str, Any]]:
    """Yield the name and value of each setting of a dataclass."""
    for name in _hints(type(part)):
        value = getattr(part, name)
        if is_dataclass(value):
            yield from _leaves(value, f"{prefix}{name}.")
        else:
            yield prefix + name, _json_value(value)


def _json_value(value: Any) -> Any:
    """Convert tuples to lists, as JSON does."""
    return [_json_value(element) for element in value] if isinstance(value, tuple) else value


def _descriptions(part: Any, prefix: str) -> Iterator[tuple[str, str]]:
    """Yield the name of each setting with the docstring of its field."""
    for kind in type(part).__mro__[:-1]:
        for field in parse_from_object(kind).params:
            text = " ".join((field.description or "").split())
            yield f"{prefix}{field.arg_name}", re.sub(r"\bNone\b", "null", text)
    for name in _hints(type(part)):
        if is_dataclass(value := getattr(part, name)):
            yield from _descriptions(value, f"{prefix}{name}.")


def _types(kind: Any, part: Any, prefix: str) -> Iterator[tuple[str, Any]]:
    """Yield the name and type of all settings, including those in dataclasses that are None."""
    for name, hint in _hints(kind).items():
        value = getattr(part, name, None)
        dataclass_kinds = [member for member in union_members(hint) if is_dataclass(member)]
        for inner in [type(value)] if is_dataclass(value) else dataclass_kinds:
            yield from _types(inner, value, f"{prefix}{name}.")
        if not all(map(is_dataclass, union_members(hint))):
            yield prefix + name, hint


def _hints(kind: Any) -> dict[str, Any]:
    """Return the type hints of a dataclass by field name, without fields that are functions."""
    hints = get_type_hints(kind)
    return {
        field.name: hints[field.name]
        for field in dataclasses.fields(kind)
        if not any(get_origin(member) is Callable for member in union_members(hints[field.name]))
    }


def _replace(part: Any, kind: Any, settings: Mapping[str, Any], prefix: str) -> Any:
    """Return a dataclass with some settings changed, or a new one of type `kind` if `part` is None.

    Args:
        part: The dataclass, or None.
        kind: Its type.
        settings: Typed values; their names are relative to `prefix`.
        prefix: Name of the part with a dot, for messages.
    """
    kind = kind if part is None else type(part)
    groups: dict[str, dict[str, Any]] = {}
    for key, value in settings.items():
        name, _, rest = key.partition(".")
        groups.setdefault(name, {})[rest] = value
    changes = {}
    for name, values in groups.items():
        if "" in values:
            if len(values) > 1:
                raise InputError(
                    f"{prefix}{name} must be set as a whole or by its fields, got both: {prefix}{name} and "
                    f"{prefix}{name}.{next(filter(None, values))}"
                )
            changes[name] = values[""]
        else:
            value = getattr(part, name, None)
            inner = value if is_dataclass(value) else None
            inner_kind = next(filter(is_dataclass, union_members(_hints(kind)[name])))
            changes[name] = _replace(inner, inner_kind, values, f"{prefix}{name}.")
    path = prefix.rstrip(".") or "the recipe"
    if part is None:
        required = [f.name for f in dataclasses.fields(kind) if f.default is dataclasses.MISSING]
        if missing := [prefix + name for name in required if name not in changes]:
            raise InputError(f"{path} is null: also set {', '.join(missing)}")
    try:
        return kind(**changes) if part is None else dataclasses.replace(part, **changes)
    except ValueError as error:
        raise InputError(f"{path}: {error}") from error


def _describe_unknown(key: str, known: list[str], values: Mapping[str, Any]) -> str:
    """Return the error message for a setting that does not exist, with similar ones."""
    if fields := [name for name in known if name.startswith(f"{key}.")]:
        names = ", ".join(fields[:3])
        return f"{key} cannot be set as a whole; set its fields, such as {names}. {_ALL_SETTINGS}"
    endings = similar_names(
        key.rpartition(".")[2], [name.rpartition(".")[2] for name in known], count=3, cutoff=0.8
    )
    similar = [name for name in known if name.rpartition(".")[2] in endings]
    similar += [name for name in similar_names(key, known, count=3) if name not in similar]
    if not similar:
        return f"there is no setting {key!r}. {_ALL_SETTINGS}"
    value = values.get(similar[0])
    example = f" ({_assignment(similar[0], value)})" if _is_example(value) else ""
    return f"there is no setting {key!r}; {ask_if_meant(similar[:3])}{example} {_ALL_SETTINGS}"


def _is_example(value: Any) -> bool:
    """Return whether a JSON value shows the syntax of a setting, which null and empty values do not."""
    return value not in (None, [], "")


def _text(value: Any) -> str:
    """Return a JSON value in the syntax of `--set`."""
    return value if isinstance(value, str) else json.dumps(value)


def _assignment(key: str, value: Any) -> str:
    """Return the `--set` option that sets a setting to this JSON value."""
    return f"--set {shlex.quote(f'{key}={_text(value)}')}"
