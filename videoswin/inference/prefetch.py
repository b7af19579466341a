"""Many videos through one model: some are loaded while another is scored, and small ones share a batch.

V views, T frames, H W height and width of a view.
"""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from queue import SimpleQueue
from typing import Any, Final, TypeVar

import torch
from torch import Tensor

from videoswin.video.reader import VideoError

MOST_THREADS: Final = 32
"""Each decoder has videos in memory, some 60 MB of views each."""

_of_thread = threading.local()

Item = TypeVar("Item")
Loaded = TypeVar("Loaded")
Result = TypeVar("Result")


def load_ahead(
    load: Callable[[Item], Loaded], paths: Iterable[Item], *, threads: int, together: int = 1
) -> Iterator[list[tuple[Item, Loaded | VideoError]]]:
    """The next video, loaded, in the order of the paths; those after it, too, if they are ready: `together`.

    Beside those handed out, `threads + together` videos are loaded or being loaded: memory does not grow with
    the list, nor with how long one of them takes. `paths` are asked for in a thread of their own, so that
    answers do not wait for a pipe. A VideoError stands in the place of its video; anything else that `load`
    or `paths` raises ends the iteration. Whoever stops early waits for the videos that are being decoded.
    """
    remaining = iter(paths)
    decoders = ThreadPoolExecutor(threads, thread_name_prefix="decode")
    asker = _Daemon("paths")

    def load_one(path: Item) -> Loaded | VideoError:
        try:
            return load(path)
        except VideoError as error:
            return error

    def ask() -> _Asked[Item, Loaded] | None:
        for path in remaining:
            return path, decoders.submit(load_one, path)
        return None

    waiting = deque(asker.submit(ask) for _ in range(threads + together))
    try:
        while (asked := waiting.popleft().result()) is not None:
            path, loading = asked
            loaded = [(path, loading.result())]
            while len(loaded) < together and waiting and (ready := _if_ready(waiting[0])):
                loaded.append(ready)
                waiting.popleft()
            waiting.extend(asker.submit(ask) for _ in loaded)
            yield loaded
    finally:
        asker.leave()
        decoders.shutdown(cancel_futures=True)


class _Daemon:
    """A thread that works off jobs, and that nobody waits for: it may be waiting for a path that never comes.

    An executor's thread would be waited for when Python ends.
    """

    def __init__(self, name: str) -> None:
        self._jobs: SimpleQueue[tuple[Future[Any], Callable[[], Any]]] = SimpleQueue()
        self._left = False
        threading.Thread(target=self._work, name=name, daemon=True).start()

    def submit(self, job: Callable[[], Result]) -> Future[Result]:
        future: Future[Result] = Future()
        self._jobs.put((future, job))
        return future

    def leave(self) -> None:
        """Begin no other job."""
        self._left = True
        self._jobs.put((Future(), lambda: None))

    def _work(self) -> None:
        while True:
            future, job = self._jobs.get()
            if self._left:
                return
            try:
                future.set_result(job())
            except BaseException as error:  # whatever it is belongs to whoever asks for the result
                future.set_exception(error)


_Asked = tuple[Item, "Future[Loaded | VideoError]"]


def _if_ready(waiting: Future[_Asked[Item, Loaded] | None]) -> tuple[Item, Loaded | VideoError] | None:
    """The next path and its video, if it is loaded and nothing has gone wrong."""
    if not waiting.done() or waiting.exception() or (asked := waiting.result()) is None:
        return None
    path, loading = asked
    return (path, loading.result()) if loading.done() and not loading.exception() else None


def decoding_threads(device: torch.device) -> int:
    """How many videos to decode at a time beside a model on `device`: on a CPU, it needs the cores, too."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(cores // 2 if device.type == "cpu" else cores - 1, MOST_THREADS))


def copy_to_device(views: Tensor, device: torch.device) -> Tensor:
    """The views on the device; on another than CUDA, as they are.

    For a decoder's thread: the copy runs beside the kernels of whatever is being scored.
    """
    if device.type != "cuda":
        return views
    if not hasattr(_of_thread, "stream"):
        # One for each decoder: torch keeps memory apart for every stream that ever held some.
        _of_thread.stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
    with torch.cuda.stream(_of_thread.stream):
        arrived = views.pin_memory().to(device, non_blocking=True)
    _of_thread.stream.synchronize()
    return arrived


def wait_for_copy(views: Tensor) -> Tensor:
    """Views that `copy_to_device` gave, in the thread that scores them."""
    if views.device.type == "cuda":
        # Their memory must not be given to another copy before the kernels that read them are done.
        views.record_stream(torch.cuda.current_stream(views.device))
    return views


def batches(videos: Iterable[tuple[int, Tensor]], size: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Views of one video after the other, `size` at a time: (V, 3, T, H, W), and the video of each (V,).

    Only views of equal shape can share a batch: where the next video's differ, it ends early.
    """
    parts: list[tuple[int, Tensor]] = []
    room = size
    for video, views in videos:
        if parts and parts[-1][1].shape[1:] != views.shape[1:]:
            yield _joined(parts)
            parts, room = [], size
        while len(views):
            parts.append((video, views[:room]))
            views = views[room:]
            room -= len(parts[-1][1])
            if not room:
                yield _joined(parts)
                parts, room = [], size
    if parts:
        yield _joined(parts)


def _joined(parts: list[tuple[int, Tensor]]) -> tuple[Tensor, Tensor]:
    (_, first), *others = parts
    # The views of a single video are not copied.
    pixels = torch.cat([views for _, views in parts]) if others else first
    return pixels, torch.tensor([video for video, views in parts for _ in views])
