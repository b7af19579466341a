"""Read a video file, or a folder of images, by frame index and by time: open_video.

Decoding uses the FFmpeg bundled with PyAV. Frames are upright and have the colors of `ffmpeg -pix_fmt rgb24`:
alpha is dropped, HDR is not tone-mapped. As in the published pipelines, pixels are assumed to be square and
frames to be progressive.
"""

from __future__ import annotations

import math
import os
from abc import abstractmethod
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, suppress
from itertools import islice, pairwise
from pathlib import Path
from typing import Final, NamedTuple

import av
import numpy as np
import torch
from av.video.frame import VideoFrame
from numpy.typing import NDArray
from torch import Tensor

from videoswin._errors import InputError, VideoError
from videoswin._text import plural
from videoswin.video import ffmpeg
from videoswin.video.limits import ReadLimits, WorkBudget, count_claimed_samples
from videoswin.video.listing import frame_images
from videoswin.video.sampling import close_clock_jumps, frames_at, measure_rate

FOLDER_FPS: Final = 30.0
"""Frame rate assumed for a folder of images, in frames per second."""

# A seek flushes the decoder; decoding this many frames forward is as fast.
_SEEK_SAVES_FRAMES: Final = 16
# Number of frames to decode to check for one frame per packet in files where this is uncertain.
_FRAMES_COMPARED: Final = 100
# Number of video streams to try if the first one is a single image.
_STREAMS_TRIED: Final = 4


def open_video(path: str | os.PathLike[str], *, limits: ReadLimits | None = None) -> VideoReader:
    """Open a video: a file in any common container, or a folder of images in natural order.

    Args:
        path: Video file or folder of images.
        limits: Limits on the cost of reading; None means the defaults of ReadLimits.

    Returns:
        A reader, which is also a context manager that closes the file.

    Raises:
        VideoError: The path is not a video, or exceeds the limits.

    Example:
        >>> with open_video("video.mp4") as video:
        ...     frames_thwc = video.read([0, 10, 20])
    """
    limits = limits or ReadLimits()
    try:
        if os.path.isdir(path):
            return _ImageFolder(Path(path), limits)
        if not os.path.exists(path):
            raise VideoError(path, "there is no such file")
        # Reading a pipe or a device could block or never end.
        if not os.path.isfile(path):
            raise VideoError(path, "the path must be a regular file or a folder, got another kind of file")
        if os.path.getsize(path) == 0:
            raise VideoError(path, "the file is empty")
        return _VideoFile(Path(path), limits)
    except OSError as error:
        raise VideoError(path, f"the file cannot be opened: {error.strerror}") from error


class VideoReader(AbstractContextManager["VideoReader"]):
    """An open video with frames numbered from 0 in display order; a context manager that closes the file."""

    path: Path
    """Video file or folder of images."""
    num_frames: int
    """Number of frames listed in the file."""
    num_readable: int
    """Number of frames before the end of decoding: `num_frames`, or fewer if the end cannot be decoded."""
    fps: float
    """Frames per second, by the median step if the rate varies."""
    times: NDArray[np.float64]
    """(num_frames,) display time of each frame in seconds from the first frame."""
    variable_times: NDArray[np.float64] | None = None
    """`times` if the rate varies; None if all frames are within half a step of a constant rate."""
    start_seconds: float = 0.0
    """Time of the first frame in seconds from the first frame of the file; more than 0 in an excerpt."""
    limits: ReadLimits
    """Limits on the cost of reading."""

    @property
    def duration_seconds(self) -> float:
        """Return the display time of all listed frames in seconds; the last frame counts as 1 / fps."""
        return float(self.times[-1]) + 1 / self.fps

    @property
    def damage(self) -> str | None:
        """Return a description of the damage found so far in a partly readable video; None without damage."""
        return None

    @property
    def notes(self) -> tuple[str, ...]:
        """Return properties found so far that are not damage but may reduce accuracy, such as HDR."""
        return ()

    def seconds(self, index: int) -> float:
        """Return the display time of frame `index` in seconds from the first frame.

        Raises:
            InputError: The index is not from 0 to num_frames - 1.
        """
        if not 0 <= index < self.num_frames:
            raise InputError(f"index must be from 0 to {self.num_frames - 1}, got {index}")
        return float(self.times[index])

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
        return frames_at([seconds], self.times, self.fps)[0]

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
        order, frames_thwc = torch.tensor(list(indices)), torch.empty(0)
        for index, frame_hwc in self.frames(indices):
            if not frames_thwc.numel():
                height, width, _ = frame_hwc.shape
                if max_pixels is not None and len(indices) * height * width > max_pixels:
                    raise VideoError(
                        self.path,
                        f"frames that are read together must have at most {max_pixels} pixels, got "
                        f"{len(indices)} frames of {width}x{height}",
                    )
                frames_thwc = frame_hwc.new_empty(len(indices), *frame_hwc.shape)
            frames_thwc[order == index] = frame_hwc
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
            yield index, self.frame(index)

    @abstractmethod
    def frame(self, index: int) -> Tensor:
        """Return frame `index`, which must exist, as uint8 RGB (H, W, 3); fastest if indices increase."""

    def close(self) -> None:
        """Close the file."""
        return

    def __exit__(self, *error: object) -> None:
        self.close()


class _ImageFolder(VideoReader):
    """A folder of images, one image per frame, at FOLDER_FPS."""

    def __init__(self, path: Path, limits: ReadLimits) -> None:
        self.path, self.limits = path, limits
        self._budget = WorkBudget(path, limits, os.path.getsize(path))
        self._images = frame_images(path)
        self.num_frames = self.num_readable = len(self._images)
        self.fps, self.times = FOLDER_FPS, np.arange(self.num_frames) / FOLDER_FPS
        self._shape: tuple[int, ...] | None = None

    def frame(self, index: int) -> Tensor:
        image = self._images[index]
        try:
            frame_hwc = ffmpeg.decode_image(image, self._budget)
        except (av.FFmpegError, StopIteration, IndexError) as error:
            raise VideoError(self.path, f"{image.name} cannot be decoded: {error}") from error
        self._shape = self._shape or frame_hwc.shape
        if frame_hwc.shape != self._shape:
            sizes = " and ".join(f"{width}x{height}" for height, width, _ in (self._shape, frame_hwc.shape))
            raise VideoError(self.path, f"all images must have one size, got {sizes} ({image.name})")
        return frame_hwc


class _NumberedFrame(NamedTuple):
    number: int
    frame: VideoFrame


class _VideoFile(VideoReader):
    """A file decoded by FFmpeg; frames are identified by timestamp, or counted if timestamps are unusable."""

    def __init__(self, path: Path, limits: ReadLimits) -> None:
        self.path, self.limits = path, limits
        self._budget = WorkBudget(path, limits, os.path.getsize(path))
        self._budget.require_num_frames(count_claimed_samples(path))
        self._to_rgb = ffmpeg.RgbConverter()
        self._stream_index: int | None = None
        self._decoded: Iterator[_NumberedFrame]
        self._newest: _NumberedFrame  # the last decoded frame
        self._previous: _NumberedFrame | None  # the frame before it; None if decoding has just started
        self._missing, self._flawed = set[int](), set[int]()  # frames read that cannot be decoded, or in part
        self._open()
        try:
            self._list_frames()
            self._start_at(next((entry for entry in self._entries[:1] if entry.number == 0), None))
            # Packets may have other timestamps than their frames, or contain one field each.
            is_never_reordered = self._listed.is_in_order and self._stream.codec_context.has_b_frames
            if not self._is_counted and (is_never_reordered or self._newest.frame.interlaced_frame):
                if self._differs_from_packets():
                    self._count_frames()
                self._start_at(None)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        self._decoded = iter(())
        self._container.close()

    @property
    def damage(self) -> str | None:
        findings = [self._listed.damage]
        if self.num_readable < self.num_frames:
            findings.append(f"decoding ends after {self.num_readable} of its {self.num_frames} frames")
        if num_missing := len(self._missing):
            findings.append(
                f"{num_missing} of the frames read cannot be decoded and are replaced by neighbors"
            )
        if self._flawed:
            findings.append(f"{len(self._flawed)} of the frames read have decoding errors")
        findings.append(self._to_rgb.substitution)
        return "; ".join(filter(None, findings)) or None

    @property
    def notes(self) -> tuple[str, ...]:
        return self._to_rgb.notes

    def _open(self) -> None:
        self._container, self._streams = ffmpeg.open_container(self.path, self._budget, self._stream_index)
        self._stream = self._streams[0]

    def _reopen(self) -> None:
        self._container.close()
        self._open()

    def _list_frames(self) -> None:
        """Determine the number of frames, their timestamps, and the frames at which decoding can start."""
        # FFmpeg's choice of stream, or one with more than one frame if possible.
        indices = [stream.index for stream in self._streams[:_STREAMS_TRIED]]
        for index in (*indices, indices[0]):
            if index != self._stream.index:
                self._stream_index = index
                self._reopen()
            listed = ffmpeg.list_packets(self._container, self._stream, self._budget)
            if listed.num_packets > 1 or len(indices) == 1:
                break
        self._listed, self._entries, self._timestamps = listed, listed.entries, listed.timestamps
        self._is_counted = not listed.is_usable
        if self._is_counted:
            self._count_frames()
        else:
            self._set_times(len(self._timestamps), self._timestamps)

    def _differs_from_packets(self) -> bool:
        """Return whether frames are not in the order of timestamps, or there is one frame per two packets."""
        self._reopen()
        packets = ffmpeg.packets(self._container, self._stream)
        codec = self._stream.codec_context
        frames = ffmpeg.decode_packets(packets, codec, self._budget, from_keyframe=False)
        displayed = (frame.pts for frame in islice(frames, _FRAMES_COMPARED))
        numbers = [bisect_left(self._timestamps, pts) for pts in displayed if pts is not None]
        steps = [after - before for before, after in pairwise(numbers)]
        return min(steps, default=1) < 1 or steps.count(2) > len(steps) / 2

    def _count_frames(self) -> None:
        """Decode the whole file and identify frames by their index, because timestamps are unusable."""
        self._is_counted, self._timestamps, self._entries = True, [], []
        self._reopen()
        displayed = [numbered.frame.pts for numbered in self._decode(0)]
        known = [pts for pts in displayed if pts is not None]
        complete = (t for t in (known, self._listed.decoding_times) if len(t) == len(displayed))
        rising = (t for t in complete if all(before < after for before, after in pairwise(t)))
        self._set_times(len(displayed), next(rising, []))

    def _set_times(self, num_frames: int, timestamps: Sequence[int]) -> None:
        """Set the number of frames and their display times; without timestamps, at a constant rate."""
        if not num_frames:
            raise VideoError(self.path, "no frame can be decoded")
        self.num_frames = self.num_readable = num_frames
        ticks = np.array([pts - timestamps[0] for pts in timestamps], dtype=np.float64)
        times = ticks * float(self._stream.time_base) if self._stream.time_base else ticks[:0]
        if self._container.format.name in ("mpegts", "mpeg"):
            times = close_clock_jumps(times)
        stated = (float(rate or 0) for rate in (self._stream.average_rate, self._stream.base_rate))
        self.fps, self.variable_times = measure_rate(times, stated)
        self.times = times if len(times) else np.arange(num_frames) / self.fps

    def frame(self, index: int) -> Tensor:
        before = bisect_right(self._entries, index, key=lambda entry: entry.number)
        entry = self._entries[before - 1] if before else None
        passed = index < self._newest.number and not (self._previous and self._previous.number < index)
        if passed or (entry and entry.number > self._newest.number + _SEEK_SAVES_FRAMES):
            self._start_at(entry)
        while self._newest.number < index:
            following = next(self._decoded, None)
            if following is None:
                self.num_readable = min(self.num_readable, self._newest.number + 1)
                break
            self._previous, self._newest = self._newest, following
        if self._newest.number > index:
            self._missing.add(index)
        shown = self._previous if self._newest.number > index and self._previous else self._newest
        if shown.frame.is_corrupt:
            self._flawed.add(shown.number)
        self._budget.require_frame_size(shown.frame.width, shown.frame.height)
        try:
            return self._to_rgb(shown.frame)
        except av.FFmpegError as error:
            raise VideoError(self.path, f"frame {shown.number} cannot be converted: {error}") from error

    def _start_at(self, entry: ffmpeg.Entry | None) -> None:
        """Start decoding at `entry` (None: the start of the file); `_newest` is then the first frame."""
        self._previous = None
        newest = None
        if entry is not None:
            with suppress(av.FFmpegError):
                self._container.seek(entry.timestamp, stream=self._stream)
                self._decoded = self._decode(entry.number)
                newest = next(self._decoded, None)
            if newest is None or newest.number != entry.number:
                # The seek missed its target, or decoding cannot start there: do not seek in this file.
                self._entries, newest = [], None
        if newest is None:
            self._reopen()
            self._decoded = self._decode(0)
            newest = next(self._decoded, None)
        if newest is None:
            reason = f"none of its {plural(self.num_frames, 'frame')} can be decoded"
            if not self._stream.codec_context.width:
                reason += f"; are they larger than max_frame_pixels = {self.limits.max_frame_pixels}?"
            raise VideoError(self.path, reason)
        self._newest = newest

    def _decode(self, first: int) -> Iterator[_NumberedFrame]:
        """Yield numbered frames from the position of the container, which is at or before frame `first`."""
        expected = first
        packets = ffmpeg.packets(self._container, self._stream)
        decoding = packets, self._stream.codec_context, self._budget
        for frame in ffmpeg.decode_packets(*decoding, from_keyframe=first > 0):
            number = expected
            if not self._is_counted and frame.pts is not None:
                number = bisect_left(self._timestamps, frame.pts)
            # Frames that are decoded after `first` but displayed before it need frames from before the seek.
            if expected <= number and (self._is_counted or number < len(self._timestamps)):
                yield _NumberedFrame(number, frame)
                expected = number + 1
