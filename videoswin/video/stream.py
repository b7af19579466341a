"""Read a video once from start to end, in constant memory: VideoStream.

`open_video` lists all packets of a file to give random access by index. VideoStream lists packets only some
seconds ahead of the decoder, so that a file may have any length, and the times of the next frames are known
before they are decoded.
"""

from __future__ import annotations

import heapq
import math
import os
from array import array
from bisect import bisect_left
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import chain, islice, pairwise
from pathlib import Path
from typing import Final

import av
import numpy as np
from av.packet import Packet
from av.video.frame import VideoFrame
from av.video.stream import VideoStream as AvStream
from numpy.typing import NDArray
from torch import Tensor

from videoswin._errors import VideoError
from videoswin._text import plural
from videoswin.video.ffmpeg import RgbConverter, decode_packets, open_container, packets
from videoswin.video.limits import ReadLimits, WorkBudget, count_claimed_samples
from videoswin.video.sampling import CLOCK_JUMP_SECONDS, measure_rate

_MEASURED_SECONDS: Final = 4.0
"""Seconds of timestamps from which the frame rate is measured."""

_MAX_REORDERED: Final = 16
"""Most frames that are decoded before a frame that is displayed earlier; the limit of H.264 and H.265."""

_FRAMES_COMPARED: Final = 16
"""Frames decoded at the start to find out whether frames have the timestamps of their packets."""


@dataclass(frozen=True, eq=False)
class StreamFrame:
    """One frame of a stream."""

    index: int
    """Number of the frame in display order, from 0."""
    seconds: float
    """Display time in seconds from the first frame."""
    picture: VideoFrame
    """The decoded frame; if this frame cannot be decoded, the one before it."""


class VideoStream:
    """The frames of a video file in display order, forward only; a context manager that closes the file.

    Example:
        with VideoStream("day.mp4") as stream:
            for frame in stream:
                print(frame.seconds, stream.rgb(frame).shape)
    """

    path: Path
    fps: float
    """Frames per second as stated by the file, or by the median step of its first seconds."""
    lists_ahead: bool
    """Whether the times of frames are known before they are decoded. False for files without usable
    timestamps, such as an AVI with B-frames: their frames are numbered as they are decoded."""
    times: array[float]
    """Display time in seconds of every frame yielded so far."""

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        ahead_seconds: float = 0.0,
        limits: ReadLimits | None = None,
    ) -> None:
        """Open a file and list its first frames.

        Args:
            path: Video file.
            ahead_seconds: Seconds that are listed ahead of the newest frame, and remembered behind it; >= 0.
                Compressed packets of this time are kept in memory.
            limits: Limits on the cost of reading; None means the defaults of ReadLimits. `max_seconds` is not
                applied, because a long video takes long.

        Raises:
            VideoError: The file cannot be read, has no video or exceeds the limits.
        """
        self.path, self.limits = Path(path), limits or ReadLimits()
        if not self.path.is_file():
            raise VideoError(self.path, "there is no such file")
        limits_of_stream = replace(self.limits, max_seconds=math.inf)
        self._budget = WorkBudget(self.path, limits_of_stream, os.path.getsize(self.path))
        self._budget.require_num_frames(count_claimed_samples(self.path))
        self._ahead = max(ahead_seconds, _MEASURED_SECONDS)
        self._to_rgb = RgbConverter()
        self._num_missing = self._num_flawed = self._num_cut_off = 0
        self._container, (self._stream, *_) = open_container(self.path, self._budget)
        try:
            self._time_base = float(self._stream.time_base or 1)
            self._packets = packets(self._container, self._stream)
            self.times = array("d")
            self._listing = _Listing()
            self._queue: deque[Packet[AvStream]] = deque()  # packets that are listed but not decoded
            self._last_dts: int | None = None
            self._clock_shift = 0
            self._num_packets = self._num_bytes = 0
            self._packets_have_ended = False
            self.lists_ahead = True
            self._list_until(self._ahead)
            stated = [float(rate or 0) for rate in (self._stream.average_rate, self._stream.base_rate)]
            self.fps, _ = measure_rate(np.array(self._listing.times), stated)
            decoded = decode_packets(
                self._packets_to_decode(), self._stream.codec_context, self._budget, from_keyframe=False
            )
            first = list(islice(decoded, _FRAMES_COMPARED))
            self._decoded = chain(first, decoded)
            self.lists_ahead = self._have_packet_times(first)
            if not self.lists_ahead:
                self._listing = _Listing()
        except BaseException:
            self.close()
            raise

    @property
    def stated_seconds(self) -> float | None:
        """The duration stated in the file, for progress only; None if it states none."""
        return self._container.duration / av.time_base if self._container.duration else None

    @property
    def num_frames(self) -> int:
        """The number of frames listed so far; of all frames after the iteration."""
        return self._listing.first + len(self._listing.times)

    @property
    def has_ended(self) -> bool:
        """Whether the last frame of the file is listed."""
        return self._listing.has_ended

    @property
    def horizon(self) -> float:
        """The time in seconds up to which all frames are listed."""
        return self._listing.horizon

    @property
    def listed(self) -> tuple[int, NDArray[np.float64]]:
        """The number of the first listed frame that is remembered, and the display times of all from it."""
        return self._listing.first, np.array(self._listing.times)

    @property
    def damage(self) -> str | None:
        """What could not be read so far; None if everything could."""
        findings = []
        if self._num_cut_off:
            findings.append(f"decoding ends {plural(self._num_cut_off, 'frame')} before the end of the video")
        if self._num_missing:
            findings.append(
                f"{plural(self._num_missing, 'frame')} cannot be decoded and are replaced by neighbors"
            )
        if self._num_flawed:
            findings.append(f"{plural(self._num_flawed, 'frame')} have decoding errors")
        if self._to_rgb.substitution:
            findings.append(self._to_rgb.substitution)
        return "; ".join(findings) or None

    @property
    def notes(self) -> tuple[str, ...]:
        """Properties of the file that are no damage but may reduce accuracy, such as HDR."""
        return self._to_rgb.notes

    def rgb(self, frame: StreamFrame) -> Tensor:
        """Convert a frame to upright uint8 RGB (H, W, 3).

        Raises:
            VideoError: The frame is too large, or its colors cannot be converted.
        """
        self._budget.require_frame_size(frame.picture.width, frame.picture.height)
        try:
            return self._to_rgb(frame.picture)
        except av.FFmpegError as error:
            raise VideoError(self.path, f"frame {frame.index} cannot be converted to RGB: {error}") from error

    def __iter__(self) -> Iterator[StreamFrame]:
        """Yield the frames in display order; the file is read once, so that a second iteration is empty.

        A listed frame that cannot be decoded has the picture of the frame before it, or of the next one at
        the start. Frames after the last one that can be decoded are removed from the listing.

        Raises:
            VideoError: No frame can be decoded, or a limit is exceeded.
        """
        number, newest = 0, None
        for picture in self._decoded:
            index = self._listing.index_of(picture.pts) if self.lists_ahead else number
            if index is None or index < number:
                continue
            while number < index:
                self._num_missing += 1
                yield self._frame(number, newest or picture)
                number += 1
            self._num_flawed += picture.is_corrupt
            yield self._frame(number, picture)
            number, newest = number + 1, picture
        if newest is None:
            raise VideoError(self.path, "no frame can be decoded")
        self._num_cut_off = self._listing.end_at(number)

    def close(self) -> None:
        """Close the file."""
        self._container.close()

    def __enter__(self) -> VideoStream:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _frame(self, index: int, picture: VideoFrame) -> StreamFrame:
        """Return frame `index`, after listing the frames ahead of it."""
        if self.lists_ahead:
            seconds = self._listing.times[index - self._listing.first]
            self._list_until(seconds + self._ahead)
        else:
            seconds = index / self.fps
            self._listing.append(index, seconds)
            self._listing.horizon = seconds
        self._listing.forget_before(seconds - self._ahead, index)
        self.times.append(seconds)
        return StreamFrame(index, seconds, picture)

    def _have_packet_times(self, first: list[VideoFrame]) -> bool:
        """Return whether the first decoded frames have the timestamps of packets, one frame per packet."""
        if not self._listing.is_usable:
            return False
        # An AVI has no timestamps; those that FFmpeg generates are wrong if B-frames change the order.
        if self._container.format.name == "avi" and self._stream.codec_context.has_b_frames:
            return False
        numbers = [self._listing.index_of(frame.pts) for frame in first]
        steps = [after - before for before, after in pairwise(n for n in numbers if n is not None)]
        # Fields of an interlaced frame may come in two packets.
        return min(steps, default=1) >= 1 and steps.count(2) <= len(steps) / 2

    def _list_until(self, seconds: float) -> None:
        """List all frames displayed up to a time."""
        while not self._listing.has_ended and self._listing.horizon < seconds:
            self._list_packet()

    def _list_packet(self) -> None:
        """Read one packet, list its frame and queue it for decoding."""
        packet = next(self._packets, None)
        if packet is None:
            self._packets_have_ended = True
            if self.lists_ahead:
                self._listing.end()
            return
        self._num_packets += 1
        self._num_bytes += packet.size
        self._budget.require_num_frames(self._num_packets, self._num_bytes)
        self._queue.append(packet)
        self._close_clock_jump(packet)
        # Packets without a frame, as in `list_packets`.
        is_vp8_reference = self._stream.codec_context.name == "vp8" and not memoryview(packet)[0] & 0x10
        if self.lists_ahead and not (packet.is_discard or is_vp8_reference):
            self._listing.add(packet.pts, packet.dts, self._time_base)

    def _close_clock_jump(self, packet: Packet[AvStream]) -> None:
        """Shift the timestamps of a packet after a jump of the clock to continue those before it."""
        if packet.dts is None:
            return
        dts = packet.dts + self._clock_shift
        if self._last_dts is not None:
            step = (dts - self._last_dts) * self._time_base
            jumps_ahead = self._container.format.name in ("mpegts", "mpeg") and step > CLOCK_JUMP_SECONDS
            if jumps_ahead or step < -CLOCK_JUMP_SECONDS:
                rate = float(self._stream.average_rate or self._stream.base_rate or 25)
                shift = self._last_dts + round(1 / rate / self._time_base) - dts
                self._clock_shift += shift
                dts += shift
        self._last_dts = dts
        if self._clock_shift:
            packet.dts = dts
            if packet.pts is not None:
                packet.pts += self._clock_shift

    def _packets_to_decode(self) -> Iterator[Packet[AvStream]]:
        """Yield the packets in file order; those that are listed are already read."""
        while True:
            while not self._queue and not self._packets_have_ended:
                self._list_packet()
            if not self._queue:
                return
            yield self._queue.popleft()


class _Listing:
    """Numbers and display times of the frames around the position of a stream."""

    def __init__(self) -> None:
        self.first = 0
        """Number of the first frame that is remembered."""
        self.times: list[float] = []
        """Display times of the frames from it."""
        self.horizon = 0.0
        """Time up to which all frames are listed."""
        self.has_ended = False
        self.is_usable = True
        """Whether every packet so far has a timestamp of its own, in decodable order."""
        self._pts: list[int] = []
        self._origin: int | None = None
        self._pending: list[int] = []  # heap of timestamps that the frame of a later packet may precede
        self._last_dts: int | None = None

    def add(self, pts: int | None, dts: int | None, time_base: float) -> None:
        """Add the frame of a packet; frames are listed when no later packet can precede them."""
        if pts is None:
            self.is_usable = False
            return
        if dts is not None and self._last_dts is not None and dts < self._last_dts:
            self.is_usable = False
        self._last_dts = dts if dts is not None else self._last_dts
        heapq.heappush(self._pending, pts)
        # Packets are in decoding order, and no frame is displayed before it is decoded.
        while self._pending and (
            len(self._pending) > _MAX_REORDERED or (dts is not None and self._pending[0] <= dts)
        ):
            self._list(heapq.heappop(self._pending), time_base)
        self._time_base = time_base

    def end(self) -> None:
        """List the pending frames; no packet follows."""
        while self._pending:
            self._list(heapq.heappop(self._pending), self._time_base)
        self.has_ended = True

    def end_at(self, number: int) -> int:
        """Remove the frames from `number` on, which cannot be decoded, and return how many they are."""
        kept = max(number - self.first, 0)
        removed = len(self.times) - kept
        del self.times[kept:], self._pts[kept:]
        self.has_ended = True
        return removed

    def append(self, number: int, seconds: float) -> None:
        """List a decoded frame of a file without usable timestamps."""
        assert number == self.first + len(self.times)
        self.times.append(seconds)

    def index_of(self, pts: int | None) -> int | None:
        """Return the number of the frame with this timestamp, or of the next one; None if there is none."""
        if pts is None:
            return None
        position = bisect_left(self._pts, pts)
        return self.first + position if position < len(self._pts) else None

    def forget_before(self, seconds: float, number: int) -> None:
        """Forget frames before a time that are also before a frame number; in batches, to be fast."""
        count = min(bisect_left(self.times, seconds), number - self.first)
        if count > 1000:
            del self.times[:count], self._pts[:count]
            self.first += count

    def _list(self, pts: int, time_base: float) -> None:
        if self._pts and pts <= self._pts[-1]:
            self.is_usable = False
            return
        self._origin = pts if self._origin is None else self._origin
        self._pts.append(pts)
        self.horizon = (pts - self._origin) * time_base
        self.times.append(self.horizon)
