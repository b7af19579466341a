"""What FFmpeg says about an open file: its packets, its rate, its pixels."""

from __future__ import annotations

import math
import re
import struct
from collections.abc import Iterator, Sequence
from contextlib import suppress
from fractions import Fraction
from typing import Any, Final, NamedTuple, cast

import av
import numpy as np
import torch
from av.container import InputContainer
from av.filter import Graph
from av.packet import Packet
from av.sidedata.sidedata import SideDataContainer, Type
from av.video.frame import VideoFrame
from av.video.stream import VideoStream
from numpy.typing import NDArray
from torch import Tensor

from videoswin.video.limits import WorkBudget

_EXIF: Final = 31  # AV_FRAME_DATA_EXIF

UNKNOWN_FPS: Final = 25.0
"""Frames a second of a file that neither states its rate nor has timestamps to measure it by."""


def frames_per_second(stream: VideoStream, timestamps: Sequence[int]) -> float:
    """The rate that the file states if its sorted timestamps agree to about 1 %, else what these say.

    UNKNOWN_FPS if there is neither.
    """
    stated = float(stream.average_rate or 0)
    if len(timestamps) < 2 or stream.time_base is None:
        return stated or UNKNOWN_FPS
    steps, seconds = len(timestamps) - 1, float((timestamps[-1] - timestamps[0]) * stream.time_base)
    agree = abs(stated * seconds - steps) <= 1 + 0.01 * steps
    return stated if agree and stated else steps / seconds


class RgbConverter:
    """Decoded frames to uint8 RGB (H, W, 3), upright; all of them in the size of the first.

    A filter graph and not VideoFrame.reformat, which ignores where chroma lies and rounds 10 bits badly.
    """

    def __init__(self) -> None:
        self._graph: Graph | None = None
        self._graph_for: tuple[object, ...] | None = None
        self._size: str | None = None

    def __call__(self, frame: VideoFrame) -> Tensor:
        source = (frame.width, frame.height, frame.format.name, frame.colorspace, frame.color_range)
        if self._graph is None or source != self._graph_for:
            self._graph, self._graph_for = self._make_graph(frame), source
        self._graph.vpush(frame)
        rgb_hwc = _upright(self._graph.vpull().to_ndarray(), *_display_matrix(frame))
        return torch.from_numpy(np.ascontiguousarray(rgb_hwc))

    def _make_graph(self, frame: VideoFrame) -> Graph:
        self._size = self._size or f"{frame.width}:{frame.height}"
        graph = Graph()
        graph.threads = 1
        graph.link_nodes(
            graph.add_buffer(
                width=frame.width, height=frame.height, format=frame.format, time_base=Fraction(1, 1000)
            ),
            graph.add("scale", f"{self._size}:flags=bicubic+accurate_rnd"),
            graph.add("format", "rgb24"),
            graph.add("buffersink"),
        ).configure()
        return graph


def _upright(rgb_hwc: NDArray[Any], a: float, b: float, c: float, d: float) -> NDArray[Any]:
    """The picture with the pixel at (x, y) taken to (ax + cy, bx + dy), to the nearest quarter turn."""
    if abs(b) > abs(a):
        rgb_hwc, a, d = rgb_hwc.transpose(1, 0, 2), c, b
    return rgb_hwc[:: -1 if d < 0 else 1, :: -1 if a < 0 else 1]


def _display_matrix(frame: VideoFrame) -> tuple[float, float, float, float]:
    """a, b, c, d of `_upright`; EXIF orientations come as display matrices, too."""
    for prepare in (_unchanged, _without_exif):
        # ValueError: PyAV lists no side data of a frame where it lacks a name for one, such as EXIF's.
        with suppress(ValueError, av.FFmpegError):
            # PyAV's stub calls the container by the name of what it holds.
            for side_data in cast("SideDataContainer", prepare(frame).side_data):
                if side_data.type is Type.DISPLAYMATRIX:
                    a, b, _, c, d, *_ = struct.unpack("=9i", bytes(side_data))
                    return a, b, c, d
            return 1.0, 0.0, 0.0, 1.0
    turn = math.radians(frame.rotation)
    return math.cos(turn), -math.sin(turn), math.sin(turn), math.cos(turn)


def _unchanged(frame: VideoFrame) -> VideoFrame:
    return frame


def _without_exif(frame: VideoFrame) -> VideoFrame:
    graph = Graph()
    graph.threads = 1
    graph.link_nodes(
        graph.add_buffer(
            width=frame.width, height=frame.height, format=frame.format, time_base=Fraction(1, 1000)
        ),
        graph.add("sidedata", f"mode=delete:type={_EXIF}"),
        graph.add("buffersink"),
    ).configure()
    graph.vpush(frame)
    return graph.vpull()


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
    for packet in packets(container, stream):
        budget.list_packet(packet.size)
        if _is_hidden(packet):
            num_hidden += 1
        else:
            listed.append(ListedPacket(packet.pts, packet.dts, packet.is_keyframe))
            cut_off = packet.is_corrupt
    if cut_off:
        listed.pop()
    num_promised = stream.frames - num_hidden
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
    return lacking if lacking > 5 * (last - first) / len(shown) else 0.0


class Entry(NamedTuple):
    """A place where decoding can start: the number of the frame, and the timestamp to seek to."""

    number: int
    timestamp: int


def list_entries(
    container: InputContainer, listed: Sequence[ListedPacket], timestamps: Sequence[int]
) -> list[Entry]:
    """Where decoding can start, in order; `timestamps` are those of all frames, sorted."""
    if container.format.name == "mpeg":
        return []  # program streams count time differently after a seek
    # Transport streams are searched by decoding time, the others by the time of showing.
    by_dts = container.format.name == "mpegts"
    keyframes = {packet.pts: packet.dts if by_dts else packet.pts for packet in listed if packet.is_keyframe}
    targets = ((number, keyframes.get(pts)) for number, pts in enumerate(timestamps))
    return [Entry(number, target) for number, target in targets if target is not None]


def packets(container: InputContainer, stream: VideoStream) -> Iterator[Packet[VideoStream]]:
    """The stream's packets up to the end of the file or to where it cannot be read any more."""
    try:
        for packet in container.demux(stream):
            if packet.size:  # an empty packet says "as before", or is demux's own last one
                yield packet
    except (av.FFmpegError, IndexError):  # PyAV's IndexError: at the end, a stream has turned up on the way
        return
