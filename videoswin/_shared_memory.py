"""Tensors from data workers: through shared memory while it has room, through pipes otherwise.

PyTorch sends tensors between processes in shared memory. Where that is small (Docker gives 64 MB),
a worker cannot send its result: the thread that sends prints a traceback, and the other side waits forever.
"""

from __future__ import annotations

import multiprocessing
import os
from multiprocessing.reduction import ForkingPickler
from typing import Any, Final

import torch
from torch import Tensor
from torch.multiprocessing.reductions import reduce_tensor

from videoswin._errors import InputError

PREFETCH: Final = 2
"""Items that a worker of a DataLoader prepares ahead."""

_FOLDER: Final = "/dev/shm"
_MB: Final = 2**20


def free_shared_memory() -> int | None:
    """Return the bytes that are free in shared memory, or None where the system does not say."""
    try:
        stats = os.statvfs(_FOLDER)
    except (AttributeError, OSError):
        return None
    return stats.f_bavail * stats.f_frsize


def require_startable_workers(workers: int, *, name: str) -> None:
    """Raise InputError if so many data workers cannot be started; their semaphores are in shared memory, too.

    Args:
        workers: Number of worker processes.
        name: The option or argument that gave it, for the message.
    """
    if workers < 0:
        raise InputError(f"{name} must be >= 0, got {workers}")
    try:
        # More than a DataLoader makes; all at once, and gone when this returns.
        _ = [multiprocessing.Semaphore() for _ in range(8 * (workers + 1) if workers else 0)]
    except OSError as error:
        raise InputError(
            f"{name} must be 0 on this machine, got {workers}: {_FOLDER} has no room for worker processes "
            f"({error.strerror})"
        ) from error


def send_tensors_safely(worker_id: int = 0) -> None:
    """Let this process send a tensor by value if shared memory has no room for it.

    Meant as `worker_init_fn` of a DataLoader: it changes how the worker's own process pickles tensors.
    """
    # DataLoader pickles in a thread whose errors reach nobody, so the choice has to be made in there.
    ForkingPickler.register(Tensor, _reduce)


def shared_memory_notice(item_bytes: int, workers: int) -> str | None:
    """Return one line that says how much shared memory is missing, or None if there is enough.

    Args:
        item_bytes: Size of what a worker sends at a time.
        workers: Number of worker processes; 0 needs no shared memory.
    """
    free = free_shared_memory()
    # One more is in use by the receiver.
    needed = item_bytes * (workers * PREFETCH + 1)
    if workers == 0 or free is None or free >= needed:
        return None
    return (
        f"{_FOLDER} has {free // _MB} MB free, but workers={workers} needs up to {-(-needed // _MB)} MB: "
        "what does not fit is sent through pipes, which is slower. In Docker, add "
        f"--shm-size={-(-2 * needed // _MB)}m"
    )


def _reduce(tensor: Tensor) -> tuple[Any, ...]:
    """Pickle a tensor of the CPU: as a handle to shared memory, or by value if that is full."""
    free = free_shared_memory()
    # Looking first matters: a failed attempt leaves an empty file behind.
    if free is not None and tensor.untyped_storage().nbytes() > free:
        return torch.from_numpy, (tensor.numpy(),)
    try:
        tensor.share_memory_()  # type: ignore[no-untyped-call]
    except RuntimeError:  # another process was faster, or the limit on open files is reached
        return torch.from_numpy, (tensor.numpy(),)
    reduced: tuple[Any, ...] = reduce_tensor(tensor)  # type: ignore[no-untyped-call]
    return reduced
