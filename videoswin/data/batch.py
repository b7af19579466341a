"""What travels from data to training: a draw goes into a dataset, an item comes out, items make a batch.

N clips of one item, B of a batch, T frames, S side of the square, K classes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor


class Draw(NamedTuple):
    """Which clip to make. With the seed it decides everything random about it."""

    epoch: int
    item: int
    again: int = 0
    """How often the item was drawn in this epoch before, where some are drawn oftener than others."""


@dataclass(frozen=True)
class Failure:
    """A video that cannot be read, and why."""

    path: str
    reason: str


class Item(NamedTuple):
    """What a training dataset gives for one Draw."""

    clips: Tensor
    """(N, 3, T, S, S) uint8; N is the same for every item of a dataset."""
    targets: Tensor
    """(N,) class indices, or (N, K) ones and zeros where a video can have several labels."""
    failure: Failure | None = None
    """If the video cannot be read: the clips are blank then, and must not count."""


class Batch(NamedTuple):
    """Items as one."""

    clips: Tensor
    """(B, 3, T, S, S) uint8."""
    targets: Tensor
    """(B,) or (B, K), as in Item."""
    counts: Tensor
    """(B,) 1.0, and 0.0 for clips of videos that cannot be read."""
    failures: list[Failure]


def collate(items: list[Item]) -> Batch:
    """The clips of several items in one batch."""
    counts = [torch.full((len(item.clips),), float(item.failure is None)) for item in items]
    return Batch(
        clips=torch.cat([item.clips for item in items]),
        targets=torch.cat([item.targets for item in items]),
        counts=torch.cat(counts),
        failures=[item.failure for item in items if item.failure is not None],
    )
