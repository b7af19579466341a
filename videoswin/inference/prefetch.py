"""Load the next videos in threads while another is scored, and copy their views to the device."""

from __future__ import annotations

import os
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from queue import Empty, SimpleQueue
from typing import Any, Final, TypeVar

import torch
from torch import Tensor

from videoswin._errors import VideoError

MOST_THREADS: Final = 32
"""Maximum number of decoding threads; each keeps videos in memory, about 60 MB of views each."""

_STOP_SECONDS: Final = 1.0
"""Maximum time to wait for the end of the thread that reads the items, which may block on a pipe forever."""

_of_thread = threading.local()

_Item = TypeVar("_Item")
_Loaded = TypeVar("_Loaded")
_Result = TypeVar("_Result")


def load_ahead(
    load: Callable[[_Item], _Loaded], paths: Iterable[_Item], *, threads: int, together: int = 1
) -> Iterator[list[tuple[_Item, _Loaded | VideoError]]]:
    """Load items in threads and yield them in order, in lists of up to `together` items that are ready.

    At most `threads + together` further items are loaded or being loaded, so memory is bounded. Closing the
    iterator early waits for the items that are being loaded.

    Args:
        load: Loads one item; a VideoError is returned in place of its result, other exceptions are raised.
        paths: Items. They are read in a separate thread, so that results do not wait for a slow pipe.
        threads: Number of loading threads.
        together: Maximum length of a yielded list.
    """
    remaining = iter(paths)
    decoders = ThreadPoolExecutor(threads, thread_name_prefix="decode")
    reader = _Daemon("paths")

    def load_one(path: _Item) -> _Loaded | VideoError:
        try:
            return load(path)
        except VideoError as error:
            return error

    def submit_next() -> _Submitted[_Item, _Loaded] | None:
        for path in remaining:
            return path, decoders.submit(load_one, path)
        return None

    waiting = deque(reader.submit(submit_next) for _ in range(threads + together))
    try:
        while (submitted := waiting.popleft().result()) is not None:
            path, loading = submitted
            loaded = [(path, loading.result())]
            while len(loaded) < together and waiting and (ready := _if_ready(waiting[0])):
                loaded.append(ready)
                waiting.popleft()
            waiting.extend(reader.submit(submit_next) for _ in loaded)
            yield loaded
    finally:
        waiting.clear()
        reader.stop()
        decoders.shutdown(cancel_futures=True)


class _Daemon:
    """A daemon thread that runs jobs in order; it may block on a pipe forever.

    Python would wait for the thread of an executor at exit.
    """

    def __init__(self, name: str) -> None:
        self._jobs: SimpleQueue[tuple[Future[Any], Callable[[], Any]]] = SimpleQueue()
        self._stopped = False
        self._thread = threading.Thread(target=self._work, name=name, daemon=True)
        self._thread.start()

    def submit(self, job: Callable[[], _Result]) -> Future[_Result]:
        future: Future[_Result] = Future()
        self._jobs.put((future, job))
        return future

    def stop(self) -> None:
        """Start no further jobs, and wait for the end of the thread, but not for a job that blocks."""
        self._stopped = True
        with suppress(Empty):
            while True:  # a blocked thread must not keep what the jobs refer to
                self._jobs.get_nowait()
        self._jobs.put((Future(), lambda: None))
        # A thread that still runs at exit is killed, which aborts the process if it is in C++ code. The
        # garbage collector may close load_ahead in this very thread, or at exit, when no thread runs.
        if threading.current_thread() is not self._thread and not sys.is_finalizing():
            self._thread.join(_STOP_SECONDS)

    def _work(self) -> None:
        while True:
            future, job = self._jobs.get()
            if self._stopped:
                return
            try:
                future.set_result(job())
            except BaseException as error:  # result() raises it in the calling thread
                future.set_exception(error)
            # While it waits for a job, the thread must not keep the last item, nor be the one to free it.
            del future, job


_Submitted = tuple[_Item, "Future[_Loaded | VideoError]"]


def _if_ready(
    waiting: Future[_Submitted[_Item, _Loaded] | None],
) -> tuple[_Item, _Loaded | VideoError] | None:
    """Return the next item and its result if it is loaded without an exception, else None."""
    if not waiting.done() or waiting.exception() or (submitted := waiting.result()) is None:
        return None
    path, loading = submitted
    return (path, loading.result()) if loading.done() and not loading.exception() else None


def decoding_threads(device: torch.device) -> int:
    """Return the default number of decoding threads: half the cores for a CPU model, else all but one."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(cores // 2 if device.type == "cpu" else cores - 1, MOST_THREADS))


def copy_to_device(pixels: Tensor, device: torch.device) -> Tensor:
    """Copy pixels to a CUDA device, in a stream of the calling thread; return them unchanged for others.

    Call it in a decoding thread, so that the copy overlaps with the kernels of the video being scored.
    """
    if device.type != "cuda":
        return pixels
    if not hasattr(_of_thread, "stream"):
        # One stream per decoding thread, because torch caches memory separately for each stream.
        _of_thread.stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
    with torch.cuda.stream(_of_thread.stream):
        copied = pixels.pin_memory().to(device, non_blocking=True)
    _of_thread.stream.synchronize()
    return copied


def wait_for_copy(pixels: Tensor) -> Tensor:
    """Make the result of `copy_to_device` usable in the scoring thread, and return it."""
    if pixels.device.type == "cuda":
        # Another copy must not reuse the memory before the kernels that read it are done.
        pixels.record_stream(torch.cuda.current_stream(pixels.device))
    return pixels
