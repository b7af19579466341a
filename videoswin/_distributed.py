"""Processes of a run: the ranks of a distributed run, and the data workers of each rank.

Functions on ranks also work in a single process.

PyTorch sends tensors between processes in shared memory. If that is small (64 MB by default in Docker), a
worker cannot send its result: the sending thread prints a traceback, and the receiver waits forever. Data
workers of this module send tensors in shared memory if it has room, and through pipes otherwise.
"""

from __future__ import annotations

import multiprocessing
import os
import re
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.reduction import ForkingPickler
from typing import TYPE_CHECKING, Any, Final, TypeVar

import torch
import torch.distributed
from torch import Tensor
from torch.multiprocessing.reductions import reduce_tensor

from videoswin._errors import InputError, VideoSwinError

if TYPE_CHECKING:
    from lightning_fabric import Fabric

_T = TypeVar("_T")

PREFETCH: Final = 2
"""Number of items that each worker of a DataLoader prepares ahead."""

MAX_WORKERS: Final = 1024
"""Maximum number of workers, as a protection against typing errors."""

_FOLDER: Final = "/dev/shm"
_MB: Final = 2**20


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


def from_all_ranks(value: _T) -> list[_T]:
    """Gather the values of all processes, by rank, in every process. All processes must call this."""
    _, world_size = rank_and_world_size()
    if world_size == 1:
        return [value]
    values: list[Any] = [None] * world_size
    torch.distributed.all_gather_object(values, value)
    return values


def gather_objects(objects: list[_T]) -> list[_T]:
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


def free_shared_memory() -> int | None:
    """Return the free bytes in shared memory, or None if the system has no such information."""
    try:
        stats = os.statvfs(_FOLDER)
    except (AttributeError, OSError):
        return None
    return stats.f_bavail * stats.f_frsize


def require_startable_workers(workers: int, *, name: str) -> None:
    """Raise InputError if the number of data workers is invalid or there is no room for their semaphores.

    Args:
        workers: Number of worker processes; their semaphores are also in shared memory.
        name: Name of the option or argument, for the message.
    """
    if not 0 <= workers <= MAX_WORKERS:
        raise InputError(f"{name} must be from 0 to {MAX_WORKERS}, got {workers}")
    try:
        # More than a DataLoader creates; they are freed when this returns.
        _ = [multiprocessing.Semaphore() for _ in range(8 * (workers + 1) if workers else 0)]
    except OSError as error:
        raise InputError(
            f"{name} must be 0 on this machine, got {workers}: {_FOLDER} has no room for worker processes "
            f"({error.strerror})"
        ) from error


class WorkerKilledError(VideoSwinError):
    """The system has killed a data worker, often because of insufficient memory."""


@contextmanager
def naming_killed_workers() -> Iterator[None]:
    """Convert torch's RuntimeError about a dead data worker to WorkerKilledError."""
    try:
        yield
    except RuntimeError as error:
        if not str(error).startswith("DataLoader worker (pid"):
            raise
        signaled = re.search(r"killed by signal: [\w ]+", str(error))
        raise WorkerKilledError(
            f"a data worker was {signaled[0] if signaled else 'killed'}; if memory or /dev/shm is short, "
            "lower the number of workers, or set it to 0"
        ) from error


def start_data_worker(worker_id: int) -> None:
    """Initialize a data worker; this is the `worker_init_fn` of every DataLoader of the package."""
    _end_on_sigterm()
    send_tensors_safely()


def _end_on_sigterm() -> None:
    """Make SIGTERM end this process immediately with exit code 0.

    Schedulers send SIGTERM to all processes of a run. If a signal killed a worker, torch would raise an error
    in the training process, which could then not finish its step and save.
    """
    if not hasattr(signal, "pthread_sigmask"):  # Windows, where processes are ended without a signal
        return

    def wait_for_sigterm() -> None:
        signal.sigwait({signal.SIGTERM})
        os._exit(0)

    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    threading.Thread(target=wait_for_sigterm, daemon=True).start()


def send_tensors_safely() -> None:
    """Make this data worker send tensors by value if shared memory has no room for them.

    It changes the pickling of tensors in this process.
    """
    # DataLoader pickles in a thread whose errors are not reported, so the decision is made while pickling.
    ForkingPickler.register(Tensor, _reduce)


def shared_memory_notice(item_bytes: int, workers: int) -> str | None:
    """Return one line about missing shared memory, or None if there is enough.

    Args:
        item_bytes: Size of one item that a worker sends.
        workers: Number of worker processes; 0 needs no shared memory.
    """
    free = free_shared_memory()
    # The receiver uses one more item.
    needed = item_bytes * (workers * PREFETCH + 1)
    if workers == 0 or free is None or free >= needed:
        return None
    return (
        f"{_FOLDER} has {free // _MB} MB free, but workers={workers} needs up to {-(-needed // _MB)} MB: "
        "the rest is sent through pipes, which is slower. In Docker, add "
        f"--shm-size={-(-2 * needed // _MB)}m"
    )


def _reduce(tensor: Tensor) -> tuple[Any, ...]:
    """Pickle a CPU tensor: as a handle to shared memory, or by value if that is full."""
    free = free_shared_memory()
    # Check first, because a failed attempt leaves an empty file.
    if free is not None and tensor.untyped_storage().nbytes() > free:
        return torch.from_numpy, (tensor.numpy(),)
    try:
        tensor.share_memory_()  # type: ignore[no-untyped-call]
    except RuntimeError:  # another process was faster, or the limit on open files is reached
        return torch.from_numpy, (tensor.numpy(),)
    reduced: tuple[Any, ...] = reduce_tensor(tensor)  # type: ignore[no-untyped-call]
    return reduced
