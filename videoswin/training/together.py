"""What the processes of a run tell each other. Every process must make each of these calls."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

import torch
from torch import Tensor

from videoswin._ranks import from_all_ranks

if TYPE_CHECKING:
    from lightning_fabric import Fabric

Thing = TypeVar("Thing")


def mean_over_processes(tensor: Tensor, fabric: Fabric) -> Tensor:
    """The mean of all processes' tensors of one shape."""
    mean = fabric.all_reduce(tensor, reduce_op="mean")
    assert isinstance(mean, Tensor)  # collections are reduced, too, element by element
    return mean


def any_process(mine: bool, fabric: Fabric) -> bool:
    """True everywhere if it is true in one of them."""
    if fabric.world_size == 1:
        return mine
    return bool(mean_over_processes(torch.tensor(float(mine), device=fabric.device), fabric) > 0)


def gathered(things: list[Thing]) -> list[Thing]:
    """The things of all processes, in the order of their ranks."""
    return [thing for theirs in from_all_ranks(things) for thing in theirs]
