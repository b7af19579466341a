"""Work on many files in processes: one that crashes or hangs costs the file it was at, and no more."""

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

from videoswin.video.limits import STALL_SECONDS
from videoswin.video.reader import VideoError

SILENCE_SECONDS: Final = 2 * STALL_SECONDS
"""A process that says nothing for this long is given up on. The reader gives up by itself after half of it:
this is for a decoder that never comes back."""

SLOWEST_BYTES_PER_SECOND: Final = 2**20
"""To open a file can mean to read all of it, in silence; whoever reads slower than this is given up on."""

_TICK_SECONDS: Final = 0.25

Result = TypeVar("Result")
Alive = Callable[[], None]
Work = Callable[[str, Alive], Result]
"""What to do with a path. It can raise VideoError, and calls the function to show that it is getting on."""


def work_in_processes(
    work: Work[Result], paths: Sequence[str], *, workers: int, silence_seconds: float = SILENCE_SECONDS
) -> Generator[tuple[str, Result | VideoError], None, None]:
    """(path, what `work` returns or raises for it) for every path, in the order in which they are done.

    `work` must be importable, its results picklable. A process that dies or is given up on is replaced; what
    became of it is the VideoError of its file. Closing the iterator ends the processes at once.
    ChildProcessError if they cannot be started.
    """
    remaining = list(reversed(paths))
    team: list[_Worker[Result]] = []
    try:
        while remaining or team:
            while remaining and len(team) < workers:
                team.append(_Worker(work, remaining.pop(), silence_seconds))
            began = time.monotonic()
            heard = wait([worker.connection for worker in team], _TICK_SECONDS)
            # Only time spent waiting counts: not that of the caller, nor that of Ctrl-Z.
            waited = min(time.monotonic() - began, _TICK_SECONDS)
            for worker in list(team):
                done = worker.receive() if worker.connection in heard else worker.wait(waited)
                if done is None:
                    continue
                yield worker.path, done.result
                if remaining and not done.is_last:
                    worker.give(remaining.pop())
                else:
                    team.remove(worker)
                    worker.end()
    finally:
        for worker in team:
            worker.end()


class _Done(NamedTuple):
    result: Any
    is_last: bool = False
    """Whether the process will do no other file."""


class _Worker(Generic[Result]):
    """A process, the file it is at, and how long to wait for a sign of life."""

    def __init__(self, work: Work[Result], path: str, silence_seconds: float) -> None:
        context = _context()
        self._silence_seconds = silence_seconds
        self._is_ready = False
        self._silence = 0.0
        self.connection, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, work), daemon=True)
        self._process.start()
        theirs.close()
        self.give(path)

    def give(self, path: str) -> None:
        """Let it work on `path` next."""
        self.path = path
        size = 0
        with suppress(OSError):  # that there is no such file is for `work` to find
            size = os.path.getsize(path)
        self._patience = self._silence_seconds + size / SLOWEST_BYTES_PER_SECOND
        self._silence = 0.0
        with suppress(OSError):  # if it has just died, `receive` tells
            self.connection.send(path)

    def receive(self) -> _Done | None:
        """What it has done by now; None if it has only shown that it is alive."""
        try:
            message: _Done | None = self.connection.recv()
        except (EOFError, OSError):
            self._process.join()
            if not self._is_ready:
                raise ChildProcessError(
                    "a process to decode videos in cannot be started; if a script of your own starts it, "
                    'does it do so below `if __name__ == "__main__":`?'
                ) from None
            reason = f"the process that decoded it died ({_cause_of_death(self._process.exitcode)})"
            return _Done(VideoError(self.path, reason), is_last=True)
        self._is_ready = True
        self._silence = 0.0
        return message

    def wait(self, seconds: float) -> _Done | None:
        """It was silent for so long: a failure if that is too much."""
        self._silence += seconds if self._is_ready else 0.0
        if self._silence < self._patience:
            return None
        reason = f"the process that decodes it was silent for {self._patience:.0f} seconds and was ended"
        return _Done(VideoError(self.path, reason), is_last=True)

    def end(self) -> None:
        """Kill it: it only reads, so nothing is left half done."""
        self._process.kill()
        self._process.join()
        self.connection.close()


def _context() -> ForkServerContext | SpawnContext:
    """How to start processes that share nothing with this one; torch is imported once for all if possible."""
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    from multiprocessing.forkserver import ensure_running

    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    with _interrupts_ignored():
        ensure_running()
    return context


def _serve(connection: Connection, work: Work[Result]) -> None:
    """Life of a process: paths come, results go, None in between is a sign of life."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    torch.set_num_threads(1)  # there is a process for every core

    def alive() -> None:
        connection.send(None)

    with suppress(EOFError, BrokenPipeError):  # whoever asked has gone
        alive()
        while True:
            path = connection.recv()
            try:
                result: Result | VideoError = work(path, alive)
            except VideoError as error:
                result = error
            connection.send(_Done(result))


@contextmanager
def _interrupts_ignored() -> Iterator[None]:
    """What is started here never hears Ctrl-C; whoever has started it ends it."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    previous = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, previous)


def _cause_of_death(exit_code: int | None) -> str:
    if exit_code is None or exit_code >= 0:
        return f"exit code {exit_code}"
    name = signal.Signals(-exit_code).name
    return f"{name}; is there too little memory?" if name == "SIGKILL" else name
