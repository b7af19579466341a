"""Data workers: how they send tensors, how they end, and what is said if the system kills one.

PyTorch sends tensors between processes in shared memory. Where that is small (Docker gives 64 MB),
a worker cannot send its result: the thread that sends prints a traceback, and the other side waits forever.
Here a tensor goes through shared memory while that has room, and through pipes otherwise.
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
from typing import Any, Final

import torch
from torch import Tensor
from torch.multiprocessing.reductions import reduce_tensor

from videoswin._errors import InputError, VideoSwinError

PREFETCH: Final = 2
"""Items that a worker of a DataLoader prepares ahead."""

MAX_WORKERS: Final = 1024
"""More processes than any machine has use for; a mistyped number must not start them."""

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
    if not 0 <= workers <= MAX_WORKERS:
        raise InputError(f"{name} must be from 0 to {MAX_WORKERS}, got {workers}")
    try:
        # More than a DataLoader makes; all at once, and gone when this returns.
        _ = [multiprocessing.Semaphore() for _ in range(8 * (workers + 1) if workers else 0)]
    except OSError as error:
        raise InputError(
            f"{name} must be 0 on this machine, got {workers}: {_FOLDER} has no room for worker processes "
            f"({error.strerror})"
        ) from error


class WorkerKilledError(VideoSwinError):
    """The system has killed a data worker, often because memory is short."""


@contextmanager
def naming_killed_workers() -> Iterator[None]:
    """Raise WorkerKilledError for what torch raises when a data worker has died."""
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
    """Prepare a data worker's process: the `worker_init_fn` of every DataLoader of the package."""
    _end_on_sigterm()
    send_tensors_safely()


def _end_on_sigterm() -> None:
    """Let SIGTERM end this process at once, whatever it does, with an exit code that is no failure.

    Schedulers send SIGTERM to every process of a run. Torch raises an error in the training process, wherever
    that is, when a signal kills a worker; it could then not finish its step and save.
    """
    if not hasattr(signal, "pthread_sigmask"):  # Windows, where processes are ended without a signal
        return

    def wait_for_sigterm() -> None:
        signal.sigwait({signal.SIGTERM})
        os._exit(0)

    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    threading.Thread(target=wait_for_sigterm, daemon=True).start()


def send_tensors_safely() -> None:
    """Let this process send a tensor by value if shared memory has no room for it.

    It changes how the process, a data worker's, pickles tensors.
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
