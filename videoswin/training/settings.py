"""Convert a recipe to settings, dotted names with JSON values, and change a recipe by settings.

`optimizer.lr` is the setting of `recipe.optimizer.lr`. Fields that are functions, such as
`SyntheticData.clips`, are not settings: they come from the function that builds the recipe.
"""

from __future__ import annotations

import dataclasses
import difflib
import json
import math
import re
import shlex
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, is_dataclass
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from docstring_parser import parse_from_object

from videoswin._errors import InputError
from videoswin.training.recipe import Recipe


def parse_value(value: Any, hint: Any) -> list[Any]:
    """Return the possible interpretations of a value as a type.

    Args:
        value: A JSON value, or text such as "3e-4", "null", "[16, 7, 7]" or "true".
        hint: Type hint: bool, int, float, str, None, or Literals, tuples and unions of them.

    Returns:
        The interpretations, most probable first; empty if the value does not have this type. Numbers that
        are not finite have no interpretation.
    """
    found: list[Any] = []
    for kind in sorted(union_members(hint), key=lambda kind: (kind is str, kind is not NoneType)):
        if get_origin(kind) is Literal:
            found += [choice for choice in get_args(kind) if _same(value, choice) or value == str(choice)]
        elif get_origin(kind) is tuple:
            found += _tuples(value, get_args(kind))
        elif kind is NoneType:
            found += [None] if value in (None, "null", "None") else []
        elif kind is bool:
            found += [choice for choice in (True, False) if value is choice or value == str(choice).lower()]
        elif kind in (int, float):
            found += _numbers(value, kind)
        elif kind is str:
            found += [value] if isinstance(value, str) else []
    return found


def describe_type(hint: Any) -> str:
    """Describe in words which values `parse_value` accepts for a type hint."""
    words = {bool: "true or false", int: "a whole number", float: "a number", str: "text", NoneType: "null"}
    return " or ".join(words.get(kind) or _describe_compound(kind) for kind in union_members(hint))


def union_members(hint: Any) -> tuple[Any, ...]:
    """Return the members of a union, or the hint itself if it is not a union."""
    return get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)


def json_value(value: Any) -> Any:
    """Convert tuples to lists, as JSON does."""
    return [json_value(element) for element in value] if isinstance(value, tuple) else value


def _describe_compound(kind: Any) -> str:
    members = get_args(kind)
    if get_origin(kind) is Literal:
        return " or ".join(map(str, members))
    if get_origin(kind) is tuple:
        return f"[{', '.join('...' if member is Ellipsis else describe_type(member) for member in members)}]"
    assert is_dataclass(kind), kind
    return "its fields"


def _same(value: Any, choice: Any) -> bool:
    return type(value) is type(choice) and bool(value == choice)


def _numbers(value: Any, kind: type[int] | type[float]) -> list[Any]:
    if isinstance(value, bool) or not isinstance(value, (str, int, kind)):
        return []
    try:
        number = kind(value)
    except (ValueError, OverflowError):
        return []
    return [number] if math.isfinite(number) else []


def _tuples(value: Any, members: tuple[Any, ...]) -> list[Any]:
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except json.JSONDecodeError:
            return []
    if not isinstance(value, (list, tuple)):
        return []
    if members[-1] is Ellipsis:
        members = members[:1] * len(value)
    if len(value) != len(members):
        return []
    elements = [parse_value(element, member) for element, member in zip(value, members, strict=True)]
    return [tuple(found[0] for found in elements)] if all(elements) else []


FORMAT_VERSION = 2
"""Version of the format of recipe.json; files with another version are refused."""
_ALL_SETTINGS = "The recipe.json of any run lists all settings"


def flatten(recipe: Recipe) -> dict[str, Any]:
    """Return all settings of a recipe as JSON values; `with_settings` is the inverse."""
    return dict(_leaves(recipe, ""))


def describe_settings(recipe: Recipe) -> list[dict[str, Any]]:
    """Return a row for each setting of a recipe: name, value in the syntax of `--set`, and description."""
    descriptions = dict(_descriptions(recipe, ""))
    return [
        {
            "setting": name,
            "value": value if isinstance(value, str) else json.dumps(value),
            "description": descriptions.get(name, ""),
        }
        for name, value in flatten(recipe).items()
    ]


def with_settings(recipe: Recipe, settings: Mapping[str, Any]) -> Recipe:
    """Return the recipe with some settings changed.

    Args:
        recipe: The recipe to change.
        settings: Values by name, as text from the command line or as JSON values.

    Raises:
        InputError: A setting does not exist (the message suggests similar ones), a value has the wrong type
            or is out of range, or values contradict each other.

    Example:
        with_settings(recipe, {"optimizer.lr": "3e-4", "schedule.epochs": 10})
    """
    known = list(_settable(type(recipe), recipe, ""))
    for key in settings:
        if key not in known:
            raise InputError(_describe_unknown(key, known, flatten(recipe)))
    new_recipe: Recipe = _replace(recipe, settings, "")
    return new_recipe


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


@dataclass(frozen=True, kw_only=True)
class SavedRecipe:
    """Content of the recipe.json of a run folder."""

    name: str
    """Name of the function that built the recipe: one of videoswin.recipes, or `module:function`."""
    data: str | None
    """The argument `data` of that function."""
    init_from: str | None
    """Its argument `init_from`."""
    settings: dict[str, Any]
    """All settings of the run, including those that the user has changed."""


def recipe_to_dict(recipe: Recipe, name: str, data: str | None, init_from: str | None) -> dict[str, Any]:
    """Return the content of recipe.json, with which `videoswin.recipes.build_recipe` can repeat the run.

    Args:
        recipe: The recipe of the run.
        name: The name that was passed to `build_recipe`. If it is a recipe file, the function, and missing
            data and weights, are taken from that file.
        data: The data that was passed to `build_recipe`.
        init_from: The initial weights that were passed to `build_recipe`.
    """
    if is_recipe_file(name):
        origin = read_recipe_file(name)
        name, data, init_from = origin.name, data or origin.data, init_from or origin.init_from
    saved = SavedRecipe(name=name, data=data, init_from=init_from, settings=flatten(recipe))
    return {"version": FORMAT_VERSION} | dataclasses.asdict(saved)


def is_recipe_file(name: str) -> bool:
    """Return whether the name of a recipe is a file name, not the name of a function."""
    return name.endswith(".json")


def read_recipe_file(path: str) -> SavedRecipe:
    """Read the recipe.json of a run folder.

    Raises:
        InputError: The file cannot be read, is not a recipe.json, or is from another version.
    """
    try:
        contents = json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:  # not JSON, not UTF-8, or too many digits or brackets
        raise InputError(f"{path} is not JSON ({error}): is it the recipe.json of a run folder?") from error
    types = get_type_hints(SavedRecipe) | {"version": int, "settings": dict}
    if not isinstance(contents, dict) or contents.keys() != types.keys():
        raise InputError(
            f"{path} is not the recipe.json of a run folder: it must have the keys {', '.join(sorted(types))}"
        )
    if (version := contents.pop("version")) != FORMAT_VERSION:
        raise InputError(
            f"{path} must have version {FORMAT_VERSION}, got {version!r}: use the version of videoswin that "
            "wrote it"
        )
    for name, value in contents.items():
        if not isinstance(value, types[name]):
            kind = describe_type(types[name]) if name != "settings" else "an object"
            raise InputError(f"{name!r} in {path} must be {kind}, got {value!r:.80}")
    return SavedRecipe(**contents)


def _leaves(part: Any, prefix: str) -> Iterator[tuple[str, Any]]:
    """Yield the name and value of each setting of a dataclass."""
    for name in _hints(type(part)):
        value = getattr(part, name)
        if is_dataclass(value):
            yield from _leaves(value, f"{prefix}{name}.")
        else:
            yield prefix + name, json_value(value)


def _descriptions(part: Any, prefix: str) -> Iterator[tuple[str, str]]:
    """Yield the name of each setting with the docstring of its field."""
    for kind in type(part).__mro__[:-1]:
        for field in parse_from_object(kind).params:
            yield (
                f"{prefix}{field.arg_name}",
                re.sub(r"\bNone\b", "null", " ".join((field.description or "").split())),
            )
    for name in _hints(type(part)):
        if is_dataclass(value := getattr(part, name)):
            yield from _descriptions(value, f"{prefix}{name}.")


def _settable(kind: Any, part: Any, prefix: str) -> Iterator[str]:
    """Yield all names that can be set, including those of dataclasses that are None in this recipe."""
    for name, hint in _hints(kind).items():
        value = getattr(part, name, None)
        for inner in [type(value)] if is_dataclass(value) else filter(is_dataclass, union_members(hint)):
            yield from _settable(inner, value, f"{prefix}{name}.")
        if not all(map(is_dataclass, union_members(hint))):
            yield prefix + name


def _hints(kind: Any) -> dict[str, Any]:
    """Return the type hints of a dataclass by field name, without fields that are functions."""
    hints = get_type_hints(kind)
    names = [field.name for field in dataclasses.fields(kind)]
    return {name: hints[name] for name in names if not any(map(_is_function, union_members(hints[name])))}


def _is_function(kind: Any) -> bool:
    return get_origin(kind) is Callable


def _replace(part: Any, settings: Mapping[str, Any], prefix: str) -> Any:
    """Return a dataclass with some settings changed; their names are relative to `prefix`."""
    changes = {
        name: _new_value(getattr(part, name), _hints(type(part))[name], values, f"{prefix}{name}")
        for name, values in _group_by_field(settings).items()
    }
    try:
        return dataclasses.replace(part, **changes)
    except ValueError as error:
        raise InputError(f"{prefix.rstrip('.') or 'the recipe'}: {error}") from error


def _new_value(value: Any, hint: Any, values: Mapping[str, Any], path: str) -> Any:
    """Return the new value of a field: `values` has it under the name "", or the values of its own fields."""
    if "" not in values:
        return _replace(value, values, f"{path}.") if is_dataclass(value) else _create(hint, values, path)
    given = values[""]
    if len(values) > 1:
        raise InputError(
            f"{path} must be set as a whole or by its fields, got both: {path} and "
            f"{path}.{next(filter(None, values))}"
        )
    if not (interpretations := parse_value(given, hint)):
        example = f", as in {_assignment(path, value)}" if _is_example(value) else ""
        raise InputError(f"{path} must be {describe_type(hint)}, got {given!r}{example}")
    return interpretations[0]


def _create(hint: Any, settings: Mapping[str, Any], path: str) -> Any:
    """Create the dataclass of a field that was None from its settings."""
    kind: Any = next(filter(is_dataclass, union_members(hint)))
    fields = {field.name: field for field in dataclasses.fields(kind)}
    groups = _group_by_field(settings)
    missing = [n for n, f in fields.items() if f.default is dataclasses.MISSING and n not in groups]
    if missing:
        raise InputError(f"{path} is null: also set {', '.join(f'{path}.{name}' for name in missing)}")
    hints = _hints(kind)
    values = {
        name: _new_value(fields[name].default, hints[name], groups[name], f"{path}.{name}") for name in groups
    }
    try:
        return kind(**values)
    except ValueError as error:
        raise InputError(f"{path}: {error}") from error


def _group_by_field(settings: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Convert {"a.b": 1, "a.c": 2} to {"a": {"b": 1, "c": 2}}; a value of `a` itself has the name ""."""
    groups: dict[str, dict[str, Any]] = {}
    for key, value in settings.items():
        name, _, rest = key.partition(".")
        groups.setdefault(name, {})[rest] = value
    return groups


def _describe_unknown(key: str, known: list[str], values: Mapping[str, Any]) -> str:
    """Return the error message for a setting that does not exist, with similar ones."""
    fields = [name for name in known if name.startswith(f"{key}.")]
    if fields:
        return (
            f"{key} cannot be set as a whole; set its fields, such as {', '.join(fields[:3])}. "
            f"{_ALL_SETTINGS}"
        )
    endings = difflib.get_close_matches(
        key.rpartition(".")[2], [n.rpartition(".")[2] for n in known], cutoff=0.8
    )
    similar = [name for name in known if name.rpartition(".")[2] in endings]
    close = difflib.get_close_matches(key, known, n=3)
    similar += [name for name in close if name not in similar]
    if not similar:
        return f"there is no setting {key!r}. {_ALL_SETTINGS}"
    first, value = similar[0], values.get(similar[0])
    example = f" ({_assignment(first, value)})" if _is_example(value) else ""
    return f"there is no setting {key!r}; did you mean {' or '.join(similar[:3])}?{example} {_ALL_SETTINGS}"


def _is_example(value: Any) -> bool:
    """Return whether a value shows the syntax of a setting, which null and empty values do not."""
    return value not in (None, (), [], "") and not is_dataclass(value)


def _assignment(key: str, value: Any) -> str:
    """Return the `--set` option that sets a setting to this value."""
    text = value if isinstance(value, str) else json.dumps(json_value(value))
    return f"--set {shlex.quote(f'{key}={text}')}"
