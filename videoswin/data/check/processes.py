"""Run a function on many files in processes; a process that crashes or hangs loses only its current file."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection, wait
from multiprocessing.context import ForkServerContext, SpawnContext
from typing import Any, Final, Generic, NamedTuple, TypeVar

import torch

from videoswin._errors import VideoError
from videoswin.video.limits import STALL_SECONDS

TIMEOUT_SECONDS: Final = 2 * STALL_SECONDS
"""Seconds without a heartbeat after which a process is killed. The reader has its own limit of half of it;
this one is for a decoder that hangs."""

SLOWEST_BYTES_PER_SECOND: Final = 2**20
"""Slowest read rate that is allowed: opening a file can read all of it without a heartbeat."""

_POLL_SECONDS: Final = 0.25

Result = TypeVar("Result")
Heartbeat = Callable[[], None]
Work = Callable[[str, Heartbeat], Result]
"""Function of a path and a heartbeat, which it calls regularly to show its progress; may raise VideoError."""


def map_in_processes(
    work: Work[Result], paths: Sequence[str], *, workers: int, timeout_seconds: float = TIMEOUT_SECONDS
) -> Generator[tuple[str, Result | VideoError], None, None]:
    """Call a function for every path in worker processes, and yield the results in order of completion.

    A process that dies or times out is replaced, and the result for its file is a VideoError. Closing the
    iterator kills the processes immediately.

    Args:
        work: Importable function with picklable results.
        paths: Paths to process.
        workers: Number of processes, >= 1.
        timeout_seconds: Seconds without a heartbeat after which a process is killed, in addition to the time
            to read the file at SLOWEST_BYTES_PER_SECOND.

    Yields:
        (path, result of `work` or VideoError).

    Raises:
        ChildProcessError: The processes cannot be started.
    """
    remaining = list(reversed(paths))
    pool: list[_Worker[Result]] = []
    try:
        while remaining or pool:
            while remaining and len(pool) < workers:
                pool.append(_Worker(work, remaining.pop(), timeout_seconds))
            start = time.monotonic()
            ready = wait([worker.connection for worker in pool], _POLL_SECONDS)
            # Only time spent waiting counts, not the time of the caller or of a stop by Ctrl-Z.
            waited = min(time.monotonic() - start, _POLL_SECONDS)
            for worker in list(pool):
                done = worker.receive() if worker.connection in ready else worker.wait(waited)
                if done is None:
                    continue
                yield worker.path, done.result
                if remaining and not done.is_last:
                    worker.send(remaining.pop())
                else:
                    pool.remove(worker)
                    worker.kill()
    finally:
        for worker in pool:
            worker.kill()


class _Done(NamedTuple):
    result: Any
    is_last: bool = False
    """True if the process has ended."""


class _Worker(Generic[Result]):
    """A process, its current file, and the time since its last heartbeat."""

    def __init__(self, work: Work[Result], path: str, timeout_seconds: float) -> None:
        context = _context()
        self._timeout_seconds = timeout_seconds
        self._is_ready = False
        self._idle_seconds = 0.0
        self.connection, child_connection = context.Pipe()
        self._process = context.Process(target=_run_worker, args=(child_connection, work), daemon=True)
        self._process.start()
        child_connection.close()
        self.send(path)

    def send(self, path: str) -> None:
        """Send the next file to the process."""
        self.path = path
        size = 0
        with suppress(OSError):  # `work` reports a missing file
            size = os.path.getsize(path)
        self._file_timeout = self._timeout_seconds + size / SLOWEST_BYTES_PER_SECOND
        self._idle_seconds = 0.0
        with suppress(OSError):  # `receive` reports a process that has just died
            self.connection.send(path)

    def receive(self) -> _Done | None:
        """Return the result that the process has sent, or None for a heartbeat."""
        try:
            message: _Done | None = self.connection.recv()
        except (EOFError, OSError):
            self._process.join()
            if not self._is_ready:
                raise ChildProcessError(
                    "a process for decoding cannot be started; if your own script starts it, "
                    'does it do so below `if __name__ == "__main__":`?'
                ) from None
            reason = f"the decoding process died ({_describe_exit(self._process.exitcode)})"
            return _Done(VideoError(self.path, reason), is_last=True)
        self._is_ready = True
        self._idle_seconds = 0.0
        return message

    def wait(self, seconds: float) -> _Done | None:
        """Add seconds without a heartbeat; return a failure if they exceed the timeout, else None."""
        self._idle_seconds += seconds if self._is_ready else 0.0
        if self._idle_seconds < self._file_timeout:
            return None
        reason = f"the decoding process did not respond for {self._file_timeout:.0f} seconds and was killed"
        return _Done(VideoError(self.path, reason), is_last=True)

    def kill(self) -> None:
        """Kill the process; it only reads files, so nothing is left incomplete."""
        self._process.kill()
        self._process.join()
        self.connection.close()


def _context() -> ForkServerContext | SpawnContext:
    """Return a start method without shared memory; with a fork server, torch is imported only once."""
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    from multiprocessing.forkserver import ensure_running

    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    with _ignore_interrupts():
        ensure_running()
    return context


def _run_worker(connection: Connection, work: Work[Result]) -> None:
    """Run the loop of a worker process: receive paths, send results, and None as a heartbeat in between."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    torch.set_num_threads(1)  # there is one process per core

    def heartbeat() -> None:
        connection.send(None)

    with suppress(EOFError, BrokenPipeError):  # the parent process has ended
        heartbeat()
        while True:
            path = connection.recv()
            try:
                result: Result | VideoError = work(path, heartbeat)
            except VideoError as error:
                result = error
            connection.send(_Done(result))


@contextmanager
def _ignore_interrupts() -> Iterator[None]:
    """Start processes that ignore Ctrl-C; the parent process ends them."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    previous = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, previous)


def _describe_exit(exit_code: int | None) -> str:
    if exit_code is None or exit_code >= 0:
        return f"exit code {exit_code}"
    name = signal.Signals(-exit_code).name
    return f"{name}; is there too little memory?" if name == "SIGKILL" else name
