"""Processes (ranks) of a distributed run; every function also works in a single process."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, TypeVar

import torch
import torch.distributed
from torch import Tensor

if TYPE_CHECKING:
    from lightning_fabric import Fabric

T = TypeVar("T")


def join_ranks() -> int:
    """Initialize the process group if torchrun started this process, select its GPU, and return its rank.

    Without torchrun, nothing is initialized and the rank is 0.
    """
    if not (torch.distributed.is_available() and torch.distributed.is_torchelastic_launched()):
        return 0
    # Ranks exchange CPU objects, regardless of the device of the model.
    torch.distributed.init_process_group("gloo")
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    return torch.distributed.get_rank()


def rank_and_world_size() -> tuple[int, int]:
    """Return the rank of this process and the number of processes."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        return torch.distributed.get_rank(), torch.distributed.get_world_size()
    return 0, 1


def from_all_ranks(value: T) -> list[T]:
    """Gather the values of all processes, by rank, in every process. All processes must call this."""
    _, world_size = rank_and_world_size()
    if world_size == 1:
        return [value]
    values: list[Any] = [None] * world_size
    torch.distributed.all_gather_object(values, value)
    return values


def gather_objects(objects: list[T]) -> list[T]:
    """Return the objects of all processes, in the order of their ranks. All processes must call this."""
    return [value for of_rank in from_all_ranks(objects) for value in of_rank]


def all_reduce_mean(tensor: Tensor, fabric: Fabric) -> Tensor:
    """Return the mean over all processes of tensors of one shape."""
    mean = fabric.all_reduce(tensor, reduce_op="mean")
    assert isinstance(mean, Tensor)  # all_reduce also accepts collections
    return mean


def any_rank(value: bool, fabric: Fabric) -> bool:
    """Return True in every process if `value` is True in at least one of them."""
    if fabric.world_size == 1:
        return value
    return bool(all_reduce_mean(torch.tensor(float(value), device=fabric.device), fabric) > 0)


def is_first_process() -> bool:
    """Return whether this is the first process, according to the variables of torchrun or Slurm."""
    ranks = (os.environ.get(name) for name in ("RANK", "SLURM_PROCID", "LOCAL_RANK"))
    return next((rank for rank in ranks if rank is not None), "0") == "0"
