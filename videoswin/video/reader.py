"""Read a video file, or a folder of images, by frame index: open_video.

Decoding uses the FFmpeg bundled with PyAV. Frames are upright and have the colors of `ffmpeg -pix_fmt rgb24`:
alpha is dropped, HDR is not tone-mapped. As in the published pipelines, pixels are assumed to be square and
frames to be progressive.
"""

from __future__ import annotations

import os
import time
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from contextlib import suppress
from itertools import chain, islice, pairwise
from pathlib import Path
from typing import Final, NamedTuple

import av
import numpy as np
from av.video.frame import VideoFrame
from torch import Tensor

from videoswin._text import plural
from videoswin.video.containers import IMAGE_CONTAINERS, count_claimed_samples, open_options
from videoswin.video.errors import VideoError as VideoError
from videoswin.video.ffmpeg import (
    IndexEntry,
    ListedPacket,
    list_entries,
    list_packets,
    open_container,
    packets,
    video_streams,
)
from videoswin.video.frames import VideoReader as VideoReader
from videoswin.video.limits import ReadLimits, WorkBudget
from videoswin.video.listing import frame_images
from videoswin.video.rgb import RgbConverter
from videoswin.video.timestamps import close_clock_jumps, measure_rate, variable_rate_times

FOLDER_FPS: Final = 30.0
"""Frame rate assumed for a folder of images, in frames per second."""

# A seek flushes the decoder; decoding this many frames forward is as fast.
_SEEK_SAVES_FRAMES: Final = 16

# Number of frames to decode to check for one frame per packet in files where this is uncertain.
_FRAMES_COMPARED: Final = 100

# Number of video streams to try if the first one is a single image.
_STREAMS_TRIED: Final = 4


def open_video(
    path: str | os.PathLike[str], *, threads: int = 1, limits: ReadLimits | None = None
) -> VideoReader:
    """Open a video: a file in any common container, or a folder of images in natural order.

    Args:
        path: Video file or folder of images.
        threads: Number of decoding threads; 0 means one per core.
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
        return _VideoFile(Path(path), threads, limits)
    except OSError as error:
        raise VideoError(path, f"the file cannot be opened: {error.strerror}") from error


class _ImageFolder(VideoReader):
    """A folder of images, one image per frame, at FOLDER_FPS."""

    def __init__(self, path: Path, limits: ReadLimits) -> None:
        self.path, self.limits, self._budget = path, limits, WorkBudget(path, limits)
        self._images = frame_images(path)
        self.num_frames = self.num_readable = len(self._images)
        self.fps = FOLDER_FPS
        self._shape: tuple[int, ...] | None = None

    def _frame(self, index: int) -> Tensor:
        image = self._images[index]
        try:
            options = open_options(IMAGE_CONTAINERS, self.limits.max_frame_pixels)
            with av.open(f"file:{image}", options=options, timeout=self.limits.stall_seconds) as container:
                codec = container.streams.video[0].codec_context
                self._budget.require_frame_size(codec.width, codec.height)
                codec.options = {"max_pixels": str(self.limits.max_frame_pixels)}
                frame_hwc = RgbConverter()(next(container.decode(video=0)))
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

    def __init__(self, path: Path, threads: int, limits: ReadLimits) -> None:
        self.path, self.limits = path, limits
        self._threads = threads
        self._budget = WorkBudget(path, limits)
        self._budget.require_num_frames(count_claimed_samples(path))
        self._to_rgb = RgbConverter()
        self._stream_index: int | None = None
        self._decoded: Iterator[_NumberedFrame]
        self._newest: _NumberedFrame  # the last decoded frame
        self._previous: _NumberedFrame | None  # the frame before it; None if decoding has just started
        self._missing: set[int] = set()
        self._flawed: set[int] = set()
        self._open()
        try:
            self._list_frames()
            self._start_at(self._entry_before(0))
            if self._may_differ_from_packets(self._newest.frame):
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
        findings = [self._listing_damage] if self._listing_damage else []
        if self.num_readable < self.num_frames:
            findings.append(f"decoding ends after {self.num_readable} of its {self.num_frames} frames")
        if self._missing:
            findings.append(
                f"{len(self._missing)} of the frames read cannot be decoded and are replaced by neighbors"
            )
        if self._flawed:
            findings.append(f"{len(self._flawed)} of the frames read have decoding errors")
        if self._to_rgb.substitution:
            findings.append(self._to_rgb.substitution)
        return "; ".join(findings) or None

    @property
    def notes(self) -> tuple[str, ...]:
        hdr = self._to_rgb.hdr
        return (f"colors look flat, because HDR ({hdr}) is not tone-mapped",) if hdr else ()

    def _open(self) -> None:
        self._container = open_container(self.path, self.limits)
        try:
            streams = video_streams(self.path, self._container)
            chosen = [stream for stream in streams if stream.index == self._stream_index]
            self._stream = (chosen or streams)[0]
            codec = self._stream.codec_context
            self._budget.require_num_frames(self._stream.frames)
            if codec.width and codec.height:
                self._budget.require_frame_size(codec.width, codec.height)
        except VideoError:
            self._container.close()
            raise
        codec.options = {"max_pixels": str(self.limits.max_frame_pixels)}
        codec.thread_count = self._threads
        if self._threads != 1:
            codec.thread_type = "AUTO"

    def _list_frames(self) -> None:
        """Determine the number of frames, their timestamps, and the frames at which decoding can start."""
        listed = self._list_packets()
        self._timestamps = sorted(packet.pts for packet in listed if packet.pts is not None)
        self._decoding_times = [packet.dts for packet in listed if packet.dts is not None]
        self._in_order = self._timestamps == [packet.pts for packet in listed]
        self._counted = (
            len(set(self._timestamps)) < len(listed)
            or self._decoding_times != sorted(self._decoding_times)
            # An AVI has no timestamps; those that FFmpeg generates are wrong if B-frames change the order.
            or (self._container.format.name == "avi" and self._stream.codec_context.has_b_frames)
        )
        if self._counted:
            self._count_frames()
        else:
            self._entries = list_entries(self._container, listed, self._timestamps)
            self._set_times(len(self._timestamps), self._timestamps)

    def _list_packets(self) -> list[ListedPacket]:
        """Return the packets of FFmpeg's choice of stream, or of one with more than one frame if possible."""
        streams = video_streams(self.path, self._container)[:_STREAMS_TRIED]
        for index in (*(stream.index for stream in streams), streams[0].index):
            if index != self._stream.index:
                self._stream_index = index
                self._reopen()
            listed, self._listing_damage = list_packets(self._container, self._stream, self._budget)
            if len(listed) > 1 or len(streams) == 1:
                break
        return listed

    def _may_differ_from_packets(self, first: VideoFrame) -> bool:
        """Return whether packets may have other timestamps than the frames, or contain one field each."""
        is_never_reordered = self._in_order and bool(self._stream.codec_context.has_b_frames)
        return not self._counted and (is_never_reordered or first.interlaced_frame)

    def _differs_from_packets(self) -> bool:
        """Return whether frames are not in the order of timestamps, or there is one frame per two packets."""
        self._reopen()
        decoded = islice(self._decode_packets(from_keyframe=False), _FRAMES_COMPARED)
        shown = [frame.pts for frame in decoded if frame.pts is not None]
        numbers = [bisect_left(self._timestamps, pts) for pts in shown]
        steps = [after - before for before, after in pairwise(numbers)]
        return min(steps, default=1) < 1 or steps.count(2) > len(steps) / 2

    def _count_frames(self) -> None:
        """Decode the whole file and identify frames by their index, because timestamps are unusable."""
        self._counted, self._timestamps, self._entries = True, [], []
        self._reopen()
        shown = [numbered.frame.pts for numbered in self._decode(0)]
        for timestamps in (shown, self._decoding_times):
            known = [time for time in timestamps if time is not None]
            if len(known) == len(shown) and all(before < after for before, after in pairwise(known)):
                break
        else:
            known = []
        self._set_times(len(shown), known)

    def _set_times(self, num_frames: int, timestamps: Sequence[int]) -> None:
        """Set the number of frames and their display times; without timestamps, at a constant rate."""
        if not num_frames:
            raise VideoError(self.path, "no frame can be decoded")
        self.num_frames = self.num_readable = num_frames
        stated = (self._stream.average_rate, self._stream.base_rate)
        ticks = np.array([pts - timestamps[0] for pts in timestamps], dtype=np.float64)
        times = ticks * float(self._stream.time_base) if self._stream.time_base else ticks[:0]
        if self._container.format.name in ("mpegts", "mpeg"):
            times = close_clock_jumps(times)
        self.fps = measure_rate(times, [float(rate or 0) for rate in stated])
        self.times = variable_rate_times(times, self.fps)

    def _frame(self, index: int) -> Tensor:
        entry = self._entry_before(index)
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
            raise VideoError(
                self.path, f"frame {shown.number} cannot be converted to RGB: {error}"
            ) from error

    def _entry_before(self, index: int) -> IndexEntry | None:
        """Return the last entry at or before frame `index` where decoding can start."""
        before = bisect_right(self._entries, index, key=lambda entry: entry.number)
        return self._entries[before - 1] if before else None

    def _start_at(self, entry: IndexEntry | None) -> None:
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

    def _reopen(self) -> None:
        self._container.close()
        self._open()

    def _decode(self, first: int) -> Iterator[_NumberedFrame]:
        """Yield numbered frames from the position of the container, which is at or before frame `first`."""
        expected = first
        for frame in self._decode_packets(from_keyframe=first > 0):
            number = expected
            if not self._counted and frame.pts is not None:
                number = bisect_left(self._timestamps, frame.pts)
            # Frames that are decoded after `first` but displayed before it need frames from before the seek.
            if expected <= number and (self._counted or number < len(self._timestamps)):
                yield _NumberedFrame(number, frame)
                expected = number + 1

    def _decode_packets(self, *, from_keyframe: bool) -> Iterator[VideoFrame]:
        """Yield every frame that can be decoded; raise VideoError if the limits are exceeded."""
        decoder = self._stream.codec_context
        stalled, start = 0.0, time.monotonic()
        for packet in chain(packets(self._container, self._stream), [None]):  # None flushes the decoder
            if from_keyframe and packet is not None and not packet.is_keyframe:
                continue
            from_keyframe = False
            try:
                decoded = decoder.decode(packet)
            except av.FFmpegError:
                decoded = []
            seconds = time.monotonic() - start
            self._budget.decode(sum(frame.width * frame.height for frame in decoded), seconds)
            stalled = 0.0 if decoded else stalled + seconds
            if stalled > self.limits.stall_seconds:
                raise VideoError(
                    self.path, f"the decoder returned no frame for {self.limits.stall_seconds:g} seconds"
                )
            yield from decoded
            start = time.monotonic()  # excludes the time that the caller takes for the frames
