"""Check labeled videos: decode all files in parallel processes and report problems: check_videos.

A process that crashes or hangs loses only its current file.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from functools import partial
from multiprocessing.connection import Connection, wait
from multiprocessing.context import ForkServerContext, SpawnContext
from typing import Any, Final, Generic, NamedTuple, TypeVar

import torch

from videoswin._errors import InputError, VideoError
from videoswin._progress import Progress
from videoswin.data.check.findings import (
    Finding,
    find_contradictions,
    find_duplicates,
    find_leaks,
    find_near_duplicates,
    find_outliers,
    find_parts_outside,
    find_predictive_properties,
    find_too_short,
)
from videoswin.data.check.report import DataReport
from videoswin.data.dataset import Failure
from videoswin.data.fingerprint import VideoFacts, examine_video
from videoswin.data.manifest import Manifest
from videoswin.video.limits import STALL_SECONDS
from videoswin.video.spec import ClipSpec

MIN_FRAMES: Final = 64
"""Span of a clip of most published models: 32 frames, stride 2. A shorter video is looped."""

TIMEOUT_SECONDS: Final = 2 * STALL_SECONDS
"""Seconds without a heartbeat after which a process is killed. The reader has its own limit of half of it;
this one is for a decoder that hangs."""

MIN_BYTES_PER_SECOND: Final = 2**20
"""Slowest read rate that is allowed: opening a file can read all of it without a heartbeat."""

_POLL_SECONDS: Final = 0.25

_Result = TypeVar("_Result")
Heartbeat = Callable[[], None]
Work = Callable[[str, Heartbeat], _Result]
"""Function of a path and a heartbeat, which it calls regularly to show its progress; may raise VideoError."""


def check_videos(
    manifest: Manifest,
    *,
    workers: int = 0,
    min_frames: int = MIN_FRAMES,
    clip: ClipSpec | None = None,
    sampled: bool = False,
    progress: bool = False,
) -> DataReport:
    """Check the files of a manifest and their labels, and report all problems.

    A file that crashes or hangs its process is reported as unreadable.

    Args:
        manifest: Labeled videos; each file is examined once.
        workers: Number of decoding processes, >= 0; 0 means one per core.
        min_frames: Samples with fewer frames are reported as too short, >= 0.
        clip: Clip of the model; samples shorter than one clip are reported as too short. Replaces
            `min_frames`.
        sampled: Decode 8 frames of each video instead of all: faster, but damage between them is not found,
            and copies are videos with 8 identical frames.
        progress: Show a progress line with the remaining time on stderr.

    Returns:
        The report on all files and samples.

    Raises:
        InputError: `workers` or `min_frames` is negative.
        ChildProcessError: No process can be started.
    """
    for name, value in (("workers", workers), ("min_frames", min_frames)):
        if value < 0:
            raise InputError(f"{name} must be >= 0, got {value}")
    paths = list(dict.fromkeys(sample.path for sample in manifest.samples))
    examined: dict[str, VideoFacts | VideoError] = {}
    num_damaged = 0
    examine = partial(examine_video, sampled=sampled)
    results = map_in_processes(examine, paths, workers=workers or os.cpu_count() or 1)
    with Progress("check", len(paths), "files", shown=progress) as bar, closing(results):
        for path, result in results:
            examined[path] = result
            num_damaged += isinstance(result, VideoError) or result.damage is not None
            bar.advance(f"{num_damaged} damaged or unreadable")
    return make_report(manifest, examined, min_frames=min_frames, clip=clip)


def make_report(
    manifest: Manifest,
    examined: Mapping[str, VideoFacts | VideoError],
    *,
    min_frames: int,
    clip: ClipSpec | None = None,
) -> DataReport:
    """Make the report of a manifest from the results of examining its files.

    Args:
        manifest: The checked manifest.
        examined: Path -> facts or error, for every file of the manifest.
        min_frames: Samples with fewer frames are too short.
        clip: Clip of the model; samples shorter than one clip are too short. Replaces `min_frames`.
    """
    facts: dict[str, VideoFacts] = {}
    unreadable = []
    for path in dict.fromkeys(sample.path for sample in manifest.samples):
        result = examined[path]
        if isinstance(result, VideoError):
            unreadable.append(Failure(path, result.reason))
        else:
            facts[path] = result
    videos = tuple(facts.values())
    duplicates = find_duplicates(manifest, facts)
    return DataReport(
        manifest=manifest,
        videos=videos,
        unreadable=tuple(unreadable),
        outside_video=tuple(find_parts_outside(manifest, facts)),
        contradictions=tuple(find_contradictions(manifest, duplicates)),
        leaks=tuple(find_leaks(manifest, facts)),
        duplicates=tuple(duplicates),
        near_duplicates=tuple(find_near_duplicates(manifest, facts)),
        damaged=tuple(Finding(path=video.path, description=video.damage) for video in videos if video.damage),
        too_short=tuple(find_too_short(manifest, facts, min_frames, clip)),
        outliers=tuple(find_outliers(videos)),
        notes=tuple(Finding(path=video.path, description=note) for video in videos for note in video.notes),
        predictive_properties=tuple(find_predictive_properties(manifest, facts)),
    )


def map_in_processes(
    work: Work[_Result], paths: Sequence[str], *, workers: int, timeout_seconds: float = TIMEOUT_SECONDS
) -> Generator[tuple[str, _Result | VideoError], None, None]:
    """Call a function for every path in worker processes, and yield the results in order of completion.

    A process that dies or times out is replaced, and the result for its file is a VideoError. Closing the
    iterator kills the processes immediately.

    Args:
        work: Importable function with picklable results.
        paths: Paths to process.
        workers: Number of processes, >= 1.
        timeout_seconds: Seconds without a heartbeat after which a process is killed, in addition to the time
            to read the file at MIN_BYTES_PER_SECOND.

    Yields:
        (path, result of `work` or VideoError).

    Raises:
        ChildProcessError: The processes cannot be started.
    """
    remaining = list(reversed(paths))
    pool: list[_Worker[_Result]] = []
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


class _Worker(Generic[_Result]):
    """A process, its current file, and the time since its last heartbeat."""

    def __init__(self, work: Work[_Result], path: str, timeout_seconds: float) -> None:
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
        self._file_timeout = self._timeout_seconds + size / MIN_BYTES_PER_SECOND
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


def _run_worker(connection: Connection, work: Work[_Result]) -> None:
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
                result: _Result | VideoError = work(path, heartbeat)
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
