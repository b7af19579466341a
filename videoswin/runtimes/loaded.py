"""What every runtime gives for a file: its facts, and a function that runs it."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from torch import Tensor

from videoswin.runtimes.facts import Facts


class Loaded(NamedTuple):
    """An exported file, ready to run."""

    facts: Facts
    run: Callable[[Tensor], Tensor]
    """uint8 (V, 3, T, S, S) -> logits (V, K)."""
