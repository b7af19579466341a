"""The processes of one distributed program, and what they tell each other; alone, where there is but one."""

from __future__ import annotations

import os
from typing import Any, TypeVar

import torch
import torch.distributed

Thing = TypeVar("Thing")


def join_ranks() -> int:
    """Where torchrun has started this process, join the others, on a GPU of its own; its rank, else 0."""
    if not (torch.distributed.is_available() and torch.distributed.is_torchelastic_launched()):
        return 0
    # What ranks tell each other lies on the CPU, wherever they compute.
    torch.distributed.init_process_group("gloo")
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    return torch.distributed.get_rank()


def rank_and_world_size() -> tuple[int, int]:
    """Which of how many processes this is."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        return torch.distributed.get_rank(), torch.distributed.get_world_size()
    return 0, 1


def from_all_ranks(thing: Thing) -> list[Thing]:
    """The things of all processes, by rank, in every process. Each of them must call this."""
    _, world_size = rank_and_world_size()
    if world_size == 1:
        return [thing]
    things: list[Any] = [None] * world_size
    torch.distributed.all_gather_object(things, thing)
    return things


def is_first_process() -> bool:
    """Return False in all but the first of several processes, however they were started."""
    ranks = (os.environ.get(name) for name in ("RANK", "SLURM_PROCID", "LOCAL_RANK"))
    return next((rank for rank in ranks if rank is not None), "0") == "0"
