"""Label sets: the names of a model's classes, in the order of its logits."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Final

from videoswin._errors import InputError

LABEL_SETS: Final[Mapping[str, int]] = MappingProxyType(
    {"kinetics400": 400, "kinetics600": 600, "kinetics700": 700, "kinetics710": 710, "something-v2": 174}
)
"""Name of each label set in labels/ -> number of classes."""


def load_labels(name: str) -> tuple[str, ...]:
    """The class names of a label set, e.g. `kinetics400`. ValueError naming the known sets."""
    if name not in LABEL_SETS:
        raise InputError(f"label set {name!r} is not known; the known ones are {', '.join(LABEL_SETS)}")
    path = Path(__file__).parent / "labels" / f"{name}.txt"
    return tuple(path.read_text(encoding="utf-8").splitlines())


def guess_label_set(num_classes: int) -> str | None:
    """The one label set with this many classes, or None."""
    return next((name for name, count in LABEL_SETS.items() if count == num_classes), None)


def numbered_labels(num_classes: int) -> tuple[str, ...]:
    """`class 0`, `class 1`, ...: for a model whose label names nobody knows."""
    return tuple(f"class {index}" for index in range(num_classes))
