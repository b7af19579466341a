"""Open a file with FFmpeg, and list its video streams, packets and seek points."""

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
    """Open a file for reading within the limits.

    Raises:
        VideoError: FFmpeg cannot open the file, or its container is not allowed.
    """
    try:
        return av.open(
            f"file:{path}",
            options=open_options(VIDEO_CONTAINERS, limits.max_frame_pixels),
            timeout=limits.stall_seconds,
            metadata_errors="replace",
        )
    except av.ArgumentError as error:  # FFmpeg also raises this for a container that is not on the list
        raise VideoError(path, "the file is not a video, or its container is not supported") from error
    except av.FFmpegError as error:
        reason = f"the file is not a video, or its start is damaged ({error.strerror})"
        raise VideoError(path, reason) from error


def video_streams(path: Path, container: InputContainer) -> list[VideoStream]:
    """Return the video streams that can be decoded, FFmpeg's choice first.

    Raises:
        VideoError: There are none.
    """
    best = container.streams.best("video")
    streams = [
        stream for stream in container.streams.video if not stream.disposition & Disposition.attached_pic
    ]
    if not streams:
        raise VideoError(path, "the file has no video stream")
    # A stream without a decoder has no context, contrary to PyAV's type stub.
    streams = [stream for stream in streams if stream.codec_context is not None]
    if not streams:
        raise VideoError(path, "there is no decoder for its video stream")
    return sorted(streams, key=lambda stream: stream is not best)


class ListedPacket(NamedTuple):
    """Timestamps of a packet in the time base of its stream."""

    pts: int | None
    """Display time."""
    dts: int | None
    """Decoding time."""
    is_keyframe: bool
    """True if decoding can start at the packet."""


def list_packets(
    container: InputContainer, stream: VideoStream, budget: WorkBudget
) -> tuple[list[ListedPacket], str | None]:
    """List the packets that give a frame, in file order, and detect missing packets.

    Returns:
        The packets, and a description of missing packets; None if none is missing.

    Raises:
        VideoError: The packets exceed `budget`.
    """
    listed, num_hidden, cut_off = [], 0, False
    # The number stated in the file includes frames hidden by an edit list, and empty chunks of an AVI.
    num_indexed = len(stream.index_entries) if container.format.name.startswith(("mov", "avi")) else 0
    for packet in packets(container, stream):
        budget.list_packet(packet.size)
        if is_hidden(packet):
            num_hidden += 1
        else:
            listed.append(ListedPacket(packet.pts, packet.dts, packet.is_keyframe))
            cut_off = packet.is_corrupt
    if cut_off:
        listed.pop()
    num_stated = (min(stream.frames, num_indexed) if num_indexed else stream.frames) - num_hidden
    if len(listed) < num_stated:
        return listed, f"only {len(listed)} of its {num_stated} frames are in the file"
    seconds_missing = _seconds_missing(container, stream, listed)
    if seconds_missing > 0:
        return listed, f"the file ends {seconds_missing:.1f} seconds before its stated duration"
    return listed, "its last frame is cut off" if cut_off else None


def is_hidden(packet: Packet[VideoStream]) -> bool:
    """Return whether a packet gives no frame: it is cut by an edit list, or a hidden VP8 reference frame."""
    is_vp8 = packet.stream.codec_context.name == "vp8"
    return packet.is_discard or (is_vp8 and not memoryview(packet)[0] & 0x10)  # its show_frame bit


def _seconds_missing(container: InputContainer, stream: VideoStream, listed: Sequence[ListedPacket]) -> float:
    """Return the missing seconds of a file without a stated number of frames; 0 if less than 5 frames."""
    if not container.format.name.startswith(("matroska", "flv")) or not container.duration:
        return 0.0
    stated_duration = container.duration / av.time_base
    if stated := re.fullmatch(r"(\d+):(\d+):([\d.]+)", stream.metadata.get("DURATION", "")):
        hours, minutes, seconds = map(float, stated.groups())
        stated_duration = min(stated_duration, 3600 * hours + 60 * minutes + seconds)
    elif len(container.streams) > 1:
        return 0.0  # the stated duration may be that of the audio
    shown = [packet.pts for packet in listed if packet.pts is not None]
    if not shown:
        return 0.0
    first, last = (float(pts * (stream.time_base or 0)) for pts in (min(shown), max(shown)))
    missing = stated_duration - last
    step = (last - first) / (len(shown) - 1) if len(shown) > 1 else 1.0
    return missing if missing > 5 * step else 0.0


class IndexEntry(NamedTuple):
    """A position where decoding can start."""

    number: int
    """Index of the frame."""
    timestamp: int
    """Timestamp to seek to, in the time base of the stream."""


def list_entries(
    container: InputContainer, listed: Sequence[ListedPacket], timestamps: Sequence[int]
) -> list[IndexEntry]:
    """Return the entries where decoding can start, in order; `timestamps` are those of all frames, sorted."""
    if container.format.name == "mpeg":
        return []  # timestamps of program streams differ after a seek
    # FFmpeg seeks by decoding time in transport streams, by display time in other containers.
    by_dts = container.format.name == "mpegts"
    keyframes = {packet.pts: packet.dts if by_dts else packet.pts for packet in listed if packet.is_keyframe}
    targets = ((number, keyframes.get(pts)) for number, pts in enumerate(timestamps))
    return [IndexEntry(number, target) for number, target in targets if target is not None]


def packets(container: InputContainer, stream: VideoStream) -> Iterator[Packet[VideoStream]]:
    """Yield the packets of a stream up to the end of the file, or up to where reading fails."""
    try:
        for packet in container.demux(stream):
            if packet.size:  # an empty packet repeats the last frame, or is the final packet of demux
                yield packet
    except (av.FFmpegError, IndexError):  # PyAV raises IndexError at the end if a new stream has appeared
        return
