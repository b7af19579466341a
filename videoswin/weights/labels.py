"""Label sets: class names of the published datasets, in the order of the logits."""

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
    """Return the class names of a label set, e.g. `kinetics400`; raise InputError if it is unknown."""
    if name not in LABEL_SETS:
        raise InputError(f"label set must be one of {', '.join(LABEL_SETS)}, got {name!r}")
    path = Path(__file__).parent / "labels" / f"{name}.txt"
    return tuple(path.read_text(encoding="utf-8").splitlines())


def guess_label_set(num_classes: int) -> str | None:
    """Return the label set with this number of classes, or None."""
    return next((name for name, count in LABEL_SETS.items() if count == num_classes), None)


def numbered_labels(num_classes: int) -> tuple[str, ...]:
    """Return `class 0`, `class 1`, ... for a model whose class names are unknown."""
    return tuple(f"class {index}" for index in range(num_classes))
