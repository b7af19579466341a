"""A part of a video as a video of its own."""

from __future__ import annotations

import math

from torch import Tensor

from videoswin._errors import InputError
from videoswin.video.errors import VideoError
from videoswin.video.frames import VideoReader
from videoswin.video.timeline import measure_rate, tolerance, varying_times


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
