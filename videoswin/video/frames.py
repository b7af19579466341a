"""A part of a video as a video of its own."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from videoswin._errors import InputError
from videoswin.video.errors import VideoError
from videoswin.video.limits import ReadLimits
from videoswin.video.timestamps import frames_shown_at, measure_rate, tolerance, varying_times


class VideoReader(ABC):
    """A video whose frames are numbered from 0 in the order shown; `with` closes it."""

    path: Path
    num_frames: int
    """Frames that the file lists."""
    num_readable: int
    """`num_frames`, until reading finds that the end cannot be decoded: then the frames before it."""
    fps: float
    """Frames a second, by the median step if the rate varies."""
    times: NDArray[np.float64] | None = None
    """Seconds at which each frame is shown, counted from the first; None where the rate is constant."""
    limits: ReadLimits
    """The most that reading it may cost."""

    @property
    def duration_seconds(self) -> float:
        """How long the listed frames are shown, the last one for 1 / fps."""
        return self.num_frames / self.fps if self.times is None else float(self.times[-1]) + 1 / self.fps

    def seconds(self, index: int) -> float:
        """Return when frame `index` is shown, in seconds from the first frame.

        Raises:
            InputError: The index is not from 0 to num_frames - 1.
        """
        if not 0 <= index < self.num_frames:
            raise InputError(f"index must be from 0 to {self.num_frames - 1}, got {index}")
        return index / self.fps if self.times is None else float(self.times[index])

    def index_at(self, seconds: float) -> int:
        """Return the index of the frame shown at `seconds` from the first frame.

        Times before the first frame give 0, times after the end num_frames - 1. Times within a millisecond of
        each other are the same.

        Raises:
            InputError: `seconds` is NaN.
        """
        if math.isnan(seconds):
            raise InputError(f"seconds must be a number, got {seconds}")
        seconds = min(max(seconds, 0.0), self.duration_seconds)
        if self.times is not None:
            return frames_shown_at([seconds], self.times, self.fps)[0]
        return min(int((seconds + tolerance(self.fps)) * self.fps), self.num_frames - 1)

    @property
    def notes(self) -> tuple[str, ...]:
        """What was found so far that is no damage but may make a model's answers worse, such as HDR."""
        return ()

    @property
    def damage(self) -> str | None:
        """What was found wrong so far with a video that can be read in part; None for a sound one."""
        return None

    def read(self, indices: Sequence[int], *, max_pixels: int | None = None) -> Tensor:
        """These frames, in this order, repeats included: uint8 RGB (len(indices), H, W, 3).

        InputError for an index outside 0..num_frames - 1, VideoError if nothing can be decoded or the frames
        together have more than `max_pixels` (None: any number). The nearest frame before one that cannot be
        decoded (else after it) stands in for it, and `damage` says so.
        """
        if not len(indices):
            raise InputError("indices must name at least one frame, got none")
        places: dict[int, list[int]] = {}
        for place, index in enumerate(indices):
            places.setdefault(index, []).append(place)
        frames_thwc = torch.empty(0)
        for index, frame_hwc in self.frames(places):
            if not frames_thwc.numel():
                height, width, _ = frame_hwc.shape
                if max_pixels is not None and len(indices) * height * width > max_pixels:
                    raise VideoError(
                        self.path,
                        f"{len(indices)} frames of {width}x{height} were asked for at once, the limit is "
                        f"{max_pixels} pixels",
                    )
                frames_thwc = frame_hwc.new_empty(len(indices), *frame_hwc.shape)
            frames_thwc[places[index]] = frame_hwc
        return frames_thwc

    def frames(self, indices: Iterable[int]) -> Iterator[tuple[int, Tensor]]:
        """Each of these frames once, in the order shown: (index, uint8 RGB (H, W, 3)); errors as `read`."""
        wanted = sorted(set(indices))
        if wanted and not 0 <= wanted[0] <= wanted[-1] < self.num_frames:
            raise InputError(
                f"indices must be from 0 to {self.num_frames - 1}, got {wanted[0]} to {wanted[-1]}"
            )
        for index in wanted:
            yield index, self._frame(index)

    @abstractmethod
    def _frame(self, index: int) -> Tensor:
        """Frame `index` as uint8 RGB (H, W, 3); cheapest if asked for in growing order."""

    def close(self) -> None:
        """Let go of the file."""
        return

    def __enter__(self) -> VideoReader:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


def excerpt(reader: VideoReader, start_seconds: float | None, end_seconds: float | None) -> VideoReader:
    """Return the frames shown from start (None: the beginning) up to, but not at, end (None: the end).

    Times count from the first frame, to a millisecond: parts that follow each other share no frame and leave
    none out. A part in which no frame begins is the frame on show at its start. `reader` is closed with the
    excerpt, and is returned itself if both times are None.

    Raises:
        VideoError: The part begins where the video has no frame any more. One that only ends behind it is
            cut, and by more than a second, `damage` says so.
        InputError: The times are no part of any video.
    """
    if start_seconds is None and end_seconds is None:
        return reader
    start, end = start_seconds or 0.0, end_seconds if end_seconds is not None else reader.duration_seconds
    if not (0 <= start < math.inf and (end_seconds is None or start < end_seconds < math.inf)):
        raise InputError(f"the part is {start} s to {end} s, wanted 0 s or more, and an end behind the start")
    return _Excerpt(reader, start, end)


class _Excerpt(VideoReader):
    """Frames of `reader` from `_first` on, counted anew."""

    def __init__(self, reader: VideoReader, start: float, end: float) -> None:
        self._reader = reader
        self._start, self._end = start, end
        self.path, self.limits = reader.path, reader.limits
        if start >= reader.duration_seconds - tolerance(reader.fps):
            raise VideoError(
                self.path, f"the part {start:g} s to {end:g} s lies outside it: {self._length_of_video()}"
            )
        self._first = _first_frame_from(reader, start)
        behind = _first_frame_from(reader, end)
        if behind <= self._first:
            self._first = reader.index_at(start)
            behind = self._first + 1
        self.num_frames = behind - self._first
        self.fps = reader.fps
        if reader.times is not None:
            times = reader.times[self._first : behind]
            self.fps = measure_rate(times, [reader.fps])
            self.times = varying_times(times, self.fps)
        self._count_readable()

    @property
    def notes(self) -> tuple[str, ...]:
        return self._reader.notes

    @property
    def damage(self) -> str | None:
        findings = [self._reader.damage] if self._reader.damage else []
        if self._end > self._reader.duration_seconds + 1:
            findings.append(f"the part ends at {self._end:g} s, {self._length_of_video()}")
        return "; ".join(findings) or None

    def close(self) -> None:
        self._reader.close()

    def _frame(self, index: int) -> Tensor:
        frame_hwc = self._reader._frame(self._first + index)
        self._count_readable()
        return frame_hwc

    def _count_readable(self) -> None:
        """Follow what reading has found out. VideoError if decoding ends before the part."""
        self.num_readable = min(self.num_frames, self._reader.num_readable - self._first)
        if self.num_readable < 1:
            raise VideoError(
                self.path,
                f"decoding ends after {self._reader.num_readable} of its {self._reader.num_frames} frames, "
                f"before the part {self._start:g} s to {self._end:g} s",
            )

    def _length_of_video(self) -> str:
        return f"the video lasts {self._reader.duration_seconds:g} s"


def _first_frame_from(reader: VideoReader, seconds: float) -> int:
    """The first frame shown at `seconds` or later; `num_frames` if there is none."""
    index = reader.index_at(seconds)
    return index if reader.seconds(index) >= seconds - tolerance(reader.fps) else index + 1
