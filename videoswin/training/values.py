"""Reads a value that was typed, or stood in a JSON file, as what a type hint asks for."""

from __future__ import annotations

import json
import math
from dataclasses import is_dataclass
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin


def readings(value: Any, hint: Any) -> list[Any]:
    """What `value` can mean as a `hint`, most likely first; nothing if it is of the wrong type.

    value: as JSON has it, or text: "3e-4", "null", "[16, 7, 7]", "true". hint: bool, int, float, str, None,
    and Literals, tuples and unions of them. Numbers are finite.
    """
    found: list[Any] = []
    for kind in sorted(kinds_of(hint), key=lambda kind: (kind is str, kind is not NoneType)):
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


def wanted(hint: Any) -> str:
    """What `readings` accepts, in words."""
    words = {bool: "true or false", int: "a whole number", float: "a number", str: "text", NoneType: "null"}
    return " or ".join(words.get(kind) or _wanted_compound(kind) for kind in kinds_of(hint))


def kinds_of(hint: Any) -> tuple[Any, ...]:
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
        return f"[{', '.join('...' if one is Ellipsis else wanted(one) for one in members)}]"
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
    each = [readings(one, member) for one, member in zip(value, members, strict=True)]
    return [tuple(found[0] for found in each)] if all(each) else []
