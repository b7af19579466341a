"""Limit an open video to the part between two times: excerpt."""

from __future__ import annotations

import math

from torch import Tensor

from videoswin._errors import InputError, VideoError
from videoswin.video.reader import VideoReader
from videoswin.video.sampling import measure_rate, tolerance


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
        self.fps, self.times = reader.fps, reader.times[self._first : stop] - reader.times[self._first]
        if reader.variable_times is not None:
            self.fps, self.variable_times = measure_rate(self.times, [reader.fps])
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

    def frame(self, index: int) -> Tensor:
        frame_hwc = self._reader.frame(self._first + index)
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
