"""Processes (ranks) of a distributed run; every function also works in a single process."""

from __future__ import annotations

import os
from typing import Any, TypeVar

import torch
import torch.distributed

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


def is_first_process() -> bool:
    """Return whether this is the first process, according to the variables of torchrun or Slurm."""
    ranks = (os.environ.get(name) for name in ("RANK", "SLURM_PROCID", "LOCAL_RANK"))
    return next((rank for rank in ranks if rank is not None), "0") == "0"
