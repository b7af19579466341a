"""What FFmpeg says about an open file: its video stream and its packets."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import av
from av.container import InputContainer
from av.packet import Packet
from av.stream import Disposition
from av.video.stream import VideoStream

from videoswin.video.containers import VIDEO_CONTAINERS, open_options
from videoswin.video.errors import VideoError
from videoswin.video.limits import ReadLimits, WorkBudget


def open_container(path: Path, limits: ReadLimits) -> InputContainer:
    """Open the file for reading within the limits. VideoError if FFmpeg cannot."""
    try:
        return av.open(
            f"file:{path}",
            options=open_options(VIDEO_CONTAINERS, limits.max_frame_pixels),
            timeout=limits.stall_seconds,
            metadata_errors="replace",
        )
    except av.ArgumentError as error:  # also what FFmpeg says of a container that is not on the list
        raise VideoError(path, "it is not a video, or its container is not one of those read") from error
    except av.FFmpegError as error:
        raise VideoError(path, f"it is not a video, or broken from the start ({error.strerror})") from error


def video_streams(path: Path, container: InputContainer) -> list[VideoStream]:
    """Return the video streams that can be decoded, FFmpeg's choice first. VideoError if there are none."""
    best = container.streams.best("video")
    streams = [
        stream for stream in container.streams.video if not stream.disposition & Disposition.attached_pic
    ]
    if not streams:
        raise VideoError(path, "it has no video stream")
    # PyAV's stub does not know that a stream without a decoder has no context.
    streams = [stream for stream in streams if stream.codec_context is not None]
    if not streams:
        raise VideoError(path, "no decoder for its video stream")
    return sorted(streams, key=lambda stream: stream is not best)


class ListedPacket(NamedTuple):
    """When a packet is shown and decoded, in the stream's time base, and whether decoding can start at it."""

    pts: int | None
    dts: int | None
    is_keyframe: bool


def list_packets(
    container: InputContainer, stream: VideoStream, budget: WorkBudget
) -> tuple[list[ListedPacket], str | None]:
    """Every packet that makes a frame, in the file's order, and how it shows that some are lacking, if so.

    VideoError if `budget` has no room for so many.
    """
    listed, num_hidden, cut_off = [], 0, False
    # The number that the file states includes what an edit list leaves out, and empty chunks of an AVI.
    num_indexed = len(stream.index_entries) if container.format.name.startswith(("mov", "avi")) else 0
    for packet in packets(container, stream):
        budget.list_packet(packet.size)
        if _is_hidden(packet):
            num_hidden += 1
        else:
            listed.append(ListedPacket(packet.pts, packet.dts, packet.is_keyframe))
            cut_off = packet.is_corrupt
    if cut_off:
        listed.pop()
    num_promised = (min(stream.frames, num_indexed) if num_indexed else stream.frames) - num_hidden
    if len(listed) < num_promised:
        return listed, f"only {len(listed)} of its {num_promised} frames are in the file"
    seconds_lacking = _seconds_lacking(container, stream, listed)
    if seconds_lacking > 0:
        return listed, f"the file ends {seconds_lacking:.1f} seconds before its time"
    return listed, "its last frame is cut off" if cut_off else None


def _is_hidden(packet: Packet[VideoStream]) -> bool:
    """Whether it makes no frame: an edit list cuts it out, or it is a VP8 frame for others to refer to."""
    is_vp8 = packet.stream.codec_context.name == "vp8"
    return packet.is_discard or (is_vp8 and not memoryview(packet)[0] & 0x10)  # its show_frame bit


def _seconds_lacking(container: InputContainer, stream: VideoStream, listed: Sequence[ListedPacket]) -> float:
    """By how much a file that promises no number of frames ends before its header says; 0 within 5 frames."""
    if not container.format.name.startswith(("matroska", "flv")) or not container.duration:
        return 0.0
    promised = container.duration / av.time_base
    if stated := re.fullmatch(r"(\d+):(\d+):([\d.]+)", stream.metadata.get("DURATION", "")):
        hours, minutes, seconds = map(float, stated.groups())
        promised = min(promised, 3600 * hours + 60 * minutes + seconds)
    elif len(container.streams) > 1:
        return 0.0  # it may be the sound that lasts that long
    shown = [packet.pts for packet in listed if packet.pts is not None]
    if not shown:
        return 0.0
    first, last = (float(pts * (stream.time_base or 0)) for pts in (min(shown), max(shown)))
    lacking = promised - last
    step = (last - first) / (len(shown) - 1) if len(shown) > 1 else 1.0
    return lacking if lacking > 5 * step else 0.0


class IndexEntry(NamedTuple):
    """A place where decoding can start: the number of the frame, and the timestamp to seek to."""

    number: int
    timestamp: int


def list_entries(
    container: InputContainer, listed: Sequence[ListedPacket], timestamps: Sequence[int]
) -> list[IndexEntry]:
    """Where decoding can start, in order; `timestamps` are those of all frames, sorted."""
    if container.format.name == "mpeg":
        return []  # program streams count time differently after a seek
    # Transport streams are searched by decoding time, the others by the time of showing.
    by_dts = container.format.name == "mpegts"
    keyframes = {packet.pts: packet.dts if by_dts else packet.pts for packet in listed if packet.is_keyframe}
    targets = ((number, keyframes.get(pts)) for number, pts in enumerate(timestamps))
    return [IndexEntry(number, target) for number, target in targets if target is not None]


def packets(container: InputContainer, stream: VideoStream) -> Iterator[Packet[VideoStream]]:
    """The stream's packets up to the end of the file or to where it cannot be read any more."""
    try:
        for packet in container.demux(stream):
            if packet.size:  # an empty packet says "as before", or is demux's own last one
                yield packet
    except (av.FFmpegError, IndexError):  # PyAV's IndexError: at the end, a stream has turned up on the way
        return
