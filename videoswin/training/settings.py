"""A recipe as settings: dotted names and JSON values that can be written down, changed and read back.

`optimizer.lr` names `recipe.optimizer.lr`. Functions, such as `Generated.clips`, are not settings:
they come with the function that made the recipe.
"""

from __future__ import annotations

import dataclasses
import difflib
import json
import math
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
    """What `value` can mean as a `hint`, most likely first; nothing if it is of the wrong type.

    value: as JSON has it, or text: "3e-4", "null", "[16, 7, 7]", "true". hint: bool, int, float, str, None,
    and Literals, tuples and unions of them. Numbers are finite.
    """
    found: list[Any] = []
    for kind in sorted(union_members(hint), key=lambda kind: (kind is str, kind is not NoneType)):
        if get_origin(kind) is Literal:
            found += [choice for choice in get_args(kind) if _same(value, choice) or value == str(choice)]
        elif get_origin(kind) is tuple:
            found += _tuples(value, get_args(kind))
        elif kind is NoneType:
            found += [None] if value in (None, "null") else []
        elif kind is bool:
            found += [choice for choice in (True, False) if value is choice or value == str(choice).lower()]
        elif kind in (int, float):
            found += _numbers(value, kind)
        elif kind is str:
            found += [value] if isinstance(value, str) else []
    return found


def describe_type(hint: Any) -> str:
    """What `parse_value` accepts, in words."""
    words = {bool: "true or false", int: "a whole number", float: "a number", str: "text", NoneType: "null"}
    return " or ".join(words.get(kind) or _wanted_compound(kind) for kind in union_members(hint))


def union_members(hint: Any) -> tuple[Any, ...]:
    """The members of a union; of another hint, itself."""
    return get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)


def json_value(value: Any) -> Any:
    """The value as JSON gives it back: tuples are lists."""
    return [json_value(one) for one in value] if isinstance(value, tuple) else value


def _wanted_compound(kind: Any) -> str:
    members = get_args(kind)
    if get_origin(kind) is Literal:
        return " or ".join(map(str, members))
    if get_origin(kind) is tuple:
        return f"[{', '.join('...' if one is Ellipsis else describe_type(one) for one in members)}]"
    assert is_dataclass(kind), kind
    return "its parts"


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
    each = [parse_value(one, member) for one, member in zip(value, members, strict=True)]
    return [tuple(found[0] for found in each)] if all(each) else []


FORMAT_VERSION = 2
"""Version of what `recipe_to_dict` gives; a file with another one is refused."""
_ALL_SETTINGS = "The recipe.json of any run lists all settings"


def flatten(recipe: Recipe) -> dict[str, Any]:
    """Every setting and its value, fit for JSON; `with_settings` puts them back."""
    return dict(_leaves(recipe, ""))


def describe_settings(recipe: Recipe) -> list[dict[str, Any]]:
    """Return a row for each setting of a recipe: its name, its value as `--set` takes it, and what it is."""
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
    """The recipe with these settings changed; values as text from the command line, or as JSON has them.

    ValueError for a setting that does not exist, naming the nearest that do, for a value of the wrong type,
    naming what was wanted, and for values that contradict each other.
    """
    known = list(_settable(type(recipe), recipe, ""))
    for key in settings:
        if key not in known:
            raise InputError(_no_such_setting(key, known, flatten(recipe)))
    changed: Recipe = _changed(recipe, settings, "")
    return changed


def parse_assignments(assignments: Iterable[str]) -> dict[str, str]:
    """["optimizer.lr=3e-4", ...] as settings; ValueError for one without `=`, or the same one twice."""
    settings: dict[str, str] = {}
    for assignment in assignments:
        key, equals, value = (part.strip() for part in assignment.partition("="))
        if not (key and equals):
            raise InputError(f"--set {assignment!r}: wanted --set name=value, as in --set optimizer.lr=3e-4")
        if key in settings:
            raise InputError(f"--set {key} is given twice: {settings[key]!r} and {value!r}")
        settings[key] = value
    return settings


@dataclass(frozen=True, kw_only=True)
class SavedRecipe:
    """A recipe as a run folder keeps it."""

    name: str
    """Of the function that made it: one of videoswin.recipes, or `module:function`."""
    data: str | None
    """What the function was given as `data`."""
    init_from: str | None
    """What it was given as `init_from`."""
    settings: dict[str, Any]
    """Every setting of the run, those too that were changed by hand."""


def recipe_to_dict(recipe: Recipe, name: str, data: str | None, init_from: str | None) -> dict[str, Any]:
    """What a run folder keeps of its recipe, fit for JSON: `videoswin.recipes.build_recipe` runs it again.

    name, data, init_from: as `build_recipe` was given them; a saved recipe stands for what it was saved from.
    """
    if is_recipe_file(name):
        origin = read_recipe_file(name)
        name, data, init_from = origin.name, data or origin.data, init_from or origin.init_from
    written = SavedRecipe(name=name, data=data, init_from=init_from, settings=flatten(recipe))
    return {"version": FORMAT_VERSION} | dataclasses.asdict(written)


def is_recipe_file(name: str) -> bool:
    """Whether the name of a recipe is that of a file that `recipe_to_dict` went into."""
    return name.endswith(".json")


def read_recipe_file(path: str) -> SavedRecipe:
    """The recipe of a run folder; ValueError if the file is something else or from another version."""
    try:
        contents = json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:  # not JSON, not UTF-8, digits or brackets without end
        raise InputError(f"{path} is not JSON ({error}): is it the recipe.json of a run folder?") from error
    types = get_type_hints(SavedRecipe) | {"version": int, "settings": dict}
    if not isinstance(contents, dict) or contents.keys() != types.keys():
        raise InputError(f"{path} is no recipe of a run folder: it does not hold {', '.join(sorted(types))}")
    if (version := contents.pop("version")) != FORMAT_VERSION:
        raise InputError(f"{path} has version {version!r}, this package reads {FORMAT_VERSION}")
    for name, value in contents.items():
        if not isinstance(value, types[name]):
            kind = describe_type(types[name]) if name != "settings" else "an object"
            raise InputError(f"{name!r} in {path} must be {kind}, got {value!r:.80}")
    return SavedRecipe(**contents)


def _leaves(part: Any, prefix: str) -> Iterator[tuple[str, Any]]:
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
            yield f"{prefix}{field.arg_name}", " ".join((field.description or "").split())
    for name in _hints(type(part)):
        if is_dataclass(value := getattr(part, name)):
            yield from _descriptions(value, f"{prefix}{name}.")


def _settable(kind: Any, part: Any, prefix: str) -> Iterator[str]:
    """Every name that can be set, those too of parts that are None now."""
    for name, hint in _hints(kind).items():
        value = getattr(part, name, None)
        for inner in [type(value)] if is_dataclass(value) else filter(is_dataclass, union_members(hint)):
            yield from _settable(inner, value, f"{prefix}{name}.")
        if not all(map(is_dataclass, union_members(hint))):
            yield prefix + name


def _hints(kind: Any) -> dict[str, Any]:
    """The types of a dataclass's fields by name, without those that hold functions."""
    hints = get_type_hints(kind)
    names = [field.name for field in dataclasses.fields(kind)]
    return {name: hints[name] for name in names if not any(map(_is_function, union_members(hints[name])))}


def _is_function(kind: Any) -> bool:
    return get_origin(kind) is Callable


def _changed(part: Any, settings: Mapping[str, Any], path: str) -> Any:
    """The dataclass with settings changed, named from here on; `path` leads here."""
    changes = {
        name: _value(getattr(part, name), _hints(type(part))[name], below, f"{path}{name}")
        for name, below in _by_field(settings).items()
    }
    try:
        return dataclasses.replace(part, **changes)
    except ValueError as error:
        raise InputError(f"{path.rstrip('.') or 'the recipe'}: {error}") from error


def _value(value: Any, hint: Any, below: Mapping[str, Any], path: str) -> Any:
    """What a field becomes: `below` holds its own value under the empty name, or those of its parts."""
    if "" not in below:
        return _changed(value, below, f"{path}.") if is_dataclass(value) else _made(hint, below, path)
    given = below[""]
    if len(below) > 1:
        raise InputError(f"{path} is set as a whole and in parts, {path}.{next(filter(None, below))}")
    if not (meanings := parse_value(given, hint)):
        example = f", as in {_assignment(path, value)}" if _is_example(value) else ""
        raise InputError(f"{path} must be {describe_type(hint)}, got {given!r}{example}")
    return meanings[0]


def _made(hint: Any, settings: Mapping[str, Any], path: str) -> Any:
    """The dataclass that the settings make up, where there was none."""
    kind: Any = next(filter(is_dataclass, union_members(hint)))
    fields = {field.name: field for field in dataclasses.fields(kind)}
    below = _by_field(settings)
    missing = [n for n, f in fields.items() if f.default is dataclasses.MISSING and n not in below]
    if missing:
        raise InputError(f"{path} is not there yet: with it set {', '.join(f'{path}.{n}' for n in missing)}")
    hints = _hints(kind)
    values = {
        name: _value(fields[name].default, hints[name], below[name], f"{path}.{name}") for name in below
    }
    try:
        return kind(**values)
    except ValueError as error:
        raise InputError(f"{path}: {error}") from error


def _by_field(settings: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """{"a.b": 1, "a.c": 2} as {"a": {"b": 1, "c": 2}}; a value of `a` itself has the empty name."""
    fields: dict[str, dict[str, Any]] = {}
    for key, value in settings.items():
        name, _, rest = key.partition(".")
        fields.setdefault(name, {})[rest] = value
    return fields


def _no_such_setting(key: str, known: list[str], values: Mapping[str, Any]) -> str:
    parts = [name for name in known if name.startswith(f"{key}.")]
    if parts:
        return (
            f"{key} cannot be set as a whole; set its parts, such as {', '.join(parts[:3])}. {_ALL_SETTINGS}"
        )
    endings = difflib.get_close_matches(
        key.rpartition(".")[2], [n.rpartition(".")[2] for n in known], cutoff=0.8
    )
    near = [name for name in known if name.rpartition(".")[2] in endings]
    near += [name for name in difflib.get_close_matches(key, known, n=3) if name not in near]
    if not near:
        return f"there is no setting {key!r}. {_ALL_SETTINGS}"
    example = f" ({_assignment(near[0], values[near[0]])})" if _is_example(values.get(near[0])) else ""
    return f"there is no setting {key!r}; did you mean {' or '.join(near[:3])}?{example} {_ALL_SETTINGS}"


def _is_example(value: Any) -> bool:
    """Whether a value shows how such a setting is typed: null and an empty list or text do not."""
    return value not in (None, (), [], "") and not is_dataclass(value)


def _assignment(key: str, value: Any) -> str:
    """How to type what a setting already is."""
    text = value if isinstance(value, str) else json.dumps(json_value(value))
    return f"--set {shlex.quote(f'{key}={text}')}"
