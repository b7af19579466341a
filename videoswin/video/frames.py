"""VideoReader, the interface of an open video, and excerpt, which limits it to a part of the video."""

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
from videoswin.video.timestamps import frames_at, measure_rate, tolerance, variable_rate_times


class VideoReader(ABC):
    """An open video with frames numbered from 0 in display order; a context manager that closes the file."""

    path: Path
    """Video file or folder of images."""
    num_frames: int
    """Number of frames listed in the file."""
    num_readable: int
    """Number of frames before the end of decoding: `num_frames`, or fewer if the end cannot be decoded."""
    fps: float
    """Frames per second, by the median step if the rate varies."""
    times: NDArray[np.float64] | None = None
    """Display time of each frame in seconds from the first frame; None if the rate is constant."""
    start_seconds: float = 0.0
    """Time of the first frame in seconds from the first frame of the file; more than 0 in an excerpt."""
    limits: ReadLimits
    """Limits on the cost of reading."""

    @property
    def duration_seconds(self) -> float:
        """Return the display time of all listed frames in seconds; the last frame counts as 1 / fps."""
        return self.num_frames / self.fps if self.times is None else float(self.times[-1]) + 1 / self.fps

    def seconds(self, index: int) -> float:
        """Return the display time of frame `index` in seconds from the first frame.

        Raises:
            InputError: The index is not from 0 to num_frames - 1.
        """
        if not 0 <= index < self.num_frames:
            raise InputError(f"index must be from 0 to {self.num_frames - 1}, got {index}")
        return index / self.fps if self.times is None else float(self.times[index])

    def index_at(self, seconds: float) -> int:
        """Return the index of the frame displayed at `seconds` from the first frame.

        Times before the first frame give 0, times after the end num_frames - 1. Times are compared with a
        tolerance of one millisecond.

        Raises:
            InputError: `seconds` is NaN.
        """
        if math.isnan(seconds):
            raise InputError(f"seconds must be a number, got {seconds}")
        seconds = min(max(seconds, 0.0), self.duration_seconds)
        if self.times is not None:
            return frames_at([seconds], self.times, self.fps)[0]
        return min(int((seconds + tolerance(self.fps)) * self.fps), self.num_frames - 1)

    @property
    def notes(self) -> tuple[str, ...]:
        """Return properties found so far that are not damage but may reduce accuracy, such as HDR."""
        return ()

    @property
    def damage(self) -> str | None:
        """Return a description of the damage found so far in a partly readable video; None without damage."""
        return None

    def read(self, indices: Sequence[int], *, max_pixels: int | None = None) -> Tensor:
        """Read frames in the given order, including repeats.

        A frame that cannot be decoded is replaced by the nearest decodable frame before it, or else after it,
        and `damage` reports this.

        Args:
            indices: Frame indices from 0 to num_frames - 1, at least one.
            max_pixels: Largest number of pixels of all frames together; None means no limit.

        Returns:
            uint8 RGB (len(indices), H, W, 3).

        Raises:
            InputError: There is no index, or an index is out of range.
            VideoError: No frame can be decoded, or the frames have more than `max_pixels`.
        """
        if not len(indices):
            raise InputError("indices must have at least one frame, got none")
        positions: dict[int, list[int]] = {}
        for position, index in enumerate(indices):
            positions.setdefault(index, []).append(position)
        frames_thwc = torch.empty(0)
        for index, frame_hwc in self.frames(positions):
            if not frames_thwc.numel():
                height, width, _ = frame_hwc.shape
                if max_pixels is not None and len(indices) * height * width > max_pixels:
                    raise VideoError(
                        self.path,
                        f"frames that are read together must have at most {max_pixels} pixels, got "
                        f"{len(indices)} frames of {width}x{height}",
                    )
                frames_thwc = frame_hwc.new_empty(len(indices), *frame_hwc.shape)
            frames_thwc[positions[index]] = frame_hwc
        return frames_thwc

    def frames(self, indices: Iterable[int]) -> Iterator[tuple[int, Tensor]]:
        """Yield each frame once in display order, as (index, uint8 RGB (H, W, 3)).

        Raises:
            InputError: An index is out of range.
            VideoError: No frame can be decoded.
        """
        ordered = sorted(set(indices))
        if ordered and not 0 <= ordered[0] <= ordered[-1] < self.num_frames:
            raise InputError(
                f"indices must be from 0 to {self.num_frames - 1}, got {ordered[0]} to {ordered[-1]}"
            )
        for index in ordered:
            yield index, self._frame(index)

    @abstractmethod
    def _frame(self, index: int) -> Tensor:
        """Return frame `index` as uint8 RGB (H, W, 3); fastest if indices increase."""

    def close(self) -> None:
        """Close the file."""
        return

    def __enter__(self) -> VideoReader:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


def excerpt(reader: VideoReader, start_seconds: float | None, end_seconds: float | None) -> VideoReader:
    """Return a reader of the frames displayed from start up to, but not including, end.

    Times have a tolerance of one millisecond, and consecutive parts neither share nor skip a frame. A part in
    which no frame begins consists of the frame displayed at its start. A part that ends after the video is
    cut there; if the difference is more than a second, `damage` reports it.

    Args:
        reader: An open video; closing the excerpt closes it.
        start_seconds: Start in seconds from the first frame, >= 0; None means the start of the video.
        end_seconds: End in seconds from the first frame, > start; None means the end of the video.

    Returns:
        The excerpt; `reader` itself if both times are None.

    Raises:
        VideoError: The part begins after the end of the video.
        InputError: A time is out of range.
    """
    if start_seconds is None and end_seconds is None:
        return reader
    start, end = start_seconds or 0.0, end_seconds if end_seconds is not None else reader.duration_seconds
    if not (0 <= start < math.inf and (end_seconds is None or start < end_seconds < math.inf)):
        raise InputError(f"the part must have 0 <= start < end, got {start} s to {end} s")
    return _Excerpt(reader, start, end)


class _Excerpt(VideoReader):
    """Frames of `reader` from `_first` on, numbered from 0."""

    def __init__(self, reader: VideoReader, start: float, end: float) -> None:
        self._reader = reader
        self._start, self._end = start, end
        self.path, self.limits = reader.path, reader.limits
        if start >= reader.duration_seconds - tolerance(reader.fps):
            raise VideoError(
                self.path,
                f"the part {start:g} s to {end:g} s is outside of the video: {self._length_of_video()}",
            )
        self._first = _first_frame_from(reader, start)
        stop = _first_frame_from(reader, end)
        if stop <= self._first:
            self._first = reader.index_at(start)
            stop = self._first + 1
        self.num_frames = stop - self._first
        self.start_seconds = reader.start_seconds + reader.seconds(self._first)
        self.fps = reader.fps
        if reader.times is not None:
            times = reader.times[self._first : stop]
            self.fps = measure_rate(times, [reader.fps])
            self.times = variable_rate_times(times, self.fps)
        self._update_readable()

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
        self._update_readable()
        return frame_hwc

    def _update_readable(self) -> None:
        """Update `num_readable` from the reader; raise VideoError if decoding ends before the part."""
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
    """Return the first frame displayed at `seconds` or later; `num_frames` if there is none."""
    index = reader.index_at(seconds)
    return index if reader.seconds(index) >= seconds - tolerance(reader.fps) else index + 1
