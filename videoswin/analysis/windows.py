"""Slide a window over a video stream: the views of every window, in one decoding pass and constant memory.

V views, T frames, S side of a crop.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from videoswin._errors import InputError
from videoswin.video.sampling import measure_rate, sample_clips, tolerance
from videoswin.video.spec import ClipSpec, ViewPlan
from videoswin.video.stream import VideoStream
from videoswin.video.views import adaptive_order, crop_frame


@dataclass(frozen=True, eq=False)
class VideoWindow:
    """A part of a video, and its views."""

    start_seconds: float
    """Start of the window in seconds from the first frame of the video."""
    end_seconds: float
    """End of the window; the frame displayed at this time is not part of it."""
    first_frame: int
    """Number of the first frame of the window, from 0."""
    stop_frame: int
    """Number of the frame after the last frame of the window."""
    pixels: Tensor
    """(V, 3, T, S, S) uint8, as of `load_views` for this part of the file."""
    times: NDArray[np.float64]
    """(V, T) display times of the frames in seconds from the first frame of the video."""


@dataclass(frozen=True, eq=False)
class _Plan:
    """The frames of a window, before they are decoded."""

    start: float
    end: float
    first: int
    stop: int
    clips: list[list[int]]
    """Frame numbers of each clip."""
    seconds: dict[int, float]
    """Display time of each of these frames."""

    @property
    def last(self) -> int:
        """The last frame that the window needs."""
        return max(self.seconds)


def clip_seconds(clip: ClipSpec, fps: float) -> float:
    """Return the seconds that a clip covers in a video of `fps` frames per second."""
    if clip.rule == "segments":
        # The clip covers its video, whatever its length: the frames at their own rate are a natural length.
        return clip.frames / fps
    return clip.span / (clip.fps or fps)


def sliding_windows(
    stream: VideoStream, clip: ClipSpec, plan: ViewPlan, *, window_seconds: float, hop_seconds: float
) -> Iterator[VideoWindow]:
    """Yield windows at multiples of the hop, and one that ends with the last frame.

    Every frame is decoded once, and converted and resized once if any window uses it. A window equals
    `load_views(path, clip, plan, start_seconds, end_seconds)`; a video shorter than a window is one window.

    Args:
        stream: An open stream that lists at least `seconds_ahead` ahead.
        clip: Sampling and size of the clips.
        plan: Number and placement of the views of a window.
        window_seconds: Length of a window, > 0.
        hop_seconds: Time between the starts of two windows, 0 < hop <= window.
    """
    planner = _Planner(stream, clip, plan, window_seconds, hop_seconds)
    crops: dict[int, Tensor] = {}
    planned: deque[_Plan] = deque(planner.plans())
    needed = {index for window in planned for index in window.seconds}
    for frame in stream:
        fresh = list(planner.plans())
        planned.extend(fresh)
        needed.update(index for window in fresh for index in window.seconds)
        if frame.index in needed or not stream.lists_ahead:
            crops[frame.index] = crop_frame(stream.path, stream.rgb(frame), clip, plan)
        while planned and planned[0].last <= frame.index:
            yield _assemble(planned.popleft(), crops, plan)
            _forget(crops, needed, before=min(_first_of(planned, frame.index), planner.first_kept))
    planned.extend(planner.plans())
    for window in planned:
        yield _assemble(window, crops, plan)


def seconds_ahead(window_seconds: float, hop_seconds: float) -> float:
    """Return the seconds that a stream must list ahead for `sliding_windows`."""
    return window_seconds + 2 * hop_seconds + 1.0


class _Planner:
    """Plans each window as soon as all of its frames are listed."""

    def __init__(
        self, stream: VideoStream, clip: ClipSpec, plan: ViewPlan, window: float, hop: float
    ) -> None:
        if not (0 < hop <= window < math.inf):
            raise InputError(f"hop_seconds must be > 0 and at most window_seconds = {window:g}, got {hop:g}")
        self._stream, self._clip, self._plan = stream, clip, plan
        self._window, self._hop = window, hop
        self._number = 0
        self._is_done = False

    @property
    def first_kept(self) -> int:
        """The first frame that a window which is not planned yet may need."""
        first, times = self._stream.listed
        start = min(self._number * self._hop, self._stream.horizon - self._window)
        return first + int(np.searchsorted(times, start)) - 1

    def plans(self) -> Iterator[_Plan]:
        """Yield the plans of the windows that can be planned now."""
        if self._is_done:
            return
        slack = tolerance(self._stream.fps)
        limit = self._stream.horizon - slack
        # Checked before the times are copied, because this is called for every frame.
        if not self._stream.has_ended and self._number * self._hop + self._window > limit:
            return
        first, times = self._stream.listed
        if not self._stream.has_ended:
            while (start := self._number * self._hop) + self._window <= limit:
                self._number += 1
                yield self._plan_window(start, start + self._window, first, times)
            return
        self._is_done = True
        duration = float(times[-1]) + 1 / self._stream.fps
        while (start := self._number * self._hop) + self._window <= duration + slack:
            self._number += 1
            yield self._plan_window(start, start + self._window, first, times)
        covered = (self._number - 1) * self._hop + self._window if self._number else 0.0
        if covered < duration - slack:
            yield self._plan_window(max(0.0, duration - self._window), duration, first, times)

    def _plan_window(self, start: float, end: float, first: int, times: NDArray[np.float64]) -> _Plan:
        slack = tolerance(self._stream.fps)
        begin, stop = (int(n) for n in np.searchsorted(times, [start - slack, end - slack]))
        if stop <= begin:  # no frame begins in this part: it shows the frame before it
            begin = max(int(np.searchsorted(times, start + slack, side="right")) - 1, 0)
            stop = begin + 1
        inside = times[begin:stop]
        fps, variable_times = measure_rate(inside, [self._stream.fps])
        clips = sample_clips(len(inside), fps, self._clip, self._plan, variable_times)
        numbers = [[first + begin + index for index in indices] for indices in clips]
        seconds = {n: float(times[n - first]) for indices in numbers for n in indices}
        return _Plan(start, end, first + begin, first + stop, numbers, seconds)


def _assemble(window: _Plan, crops: dict[int, Tensor], plan: ViewPlan) -> VideoWindow:
    """Return the window with its pixels; the last decoded frame replaces those after it."""
    last = max(crops)
    clips = [[min(index, last) for index in indices] for indices in window.clips]
    seconds = np.array([[window.seconds[index] for index in indices] for indices in window.clips])
    pixels = torch.cat([torch.cat([crops[index] for index in indices], dim=2) for indices in clips])
    times = np.repeat(seconds, len(pixels) // len(clips), axis=0)
    if plan.is_adaptive:
        order = adaptive_order(plan)
        pixels, times = pixels[order], times[order]
    return VideoWindow(window.start, window.end, window.first, window.stop, pixels, times)


def _first_of(planned: deque[_Plan], otherwise: int) -> int:
    return min((min(window.seconds) for window in planned), default=otherwise)


def _forget(crops: dict[int, Tensor], needed: set[int], *, before: int) -> None:
    for index in [index for index in crops if index < before]:
        del crops[index]
    needed.difference_update({index for index in needed if index < before})
