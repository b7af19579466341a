"""Read a file with FFmpeg: open it, list and decode its packets, and convert its frames to upright RGB."""

from __future__ import annotations

import math
import re
import struct
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from fractions import Fraction
from itertools import chain
from pathlib import Path
from typing import Any, Final, NamedTuple, cast

import av
import numpy as np
import torch
from av.container import InputContainer
from av.filter import Graph
from av.filter.context import FilterContext
from av.packet import Packet
from av.sidedata.sidedata import SideDataContainer, Type
from av.stream import Disposition
from av.video.codeccontext import VideoCodecContext
from av.video.frame import VideoFrame
from av.video.stream import VideoStream
from numpy.typing import NDArray
from torch import Tensor

from videoswin._errors import VideoError
from videoswin.video.limits import IMAGE_CONTAINERS, OPEN_OPTIONS, VIDEO_CONTAINERS, WorkBudget


def open_container(
    path: Path, budget: WorkBudget, stream_index: int | None = None
) -> tuple[InputContainer, list[VideoStream]]:
    """Open a file for reading within its budget.

    Args:
        path: Video file.
        budget: Limits on the number and the size of the frames.
        stream_index: Index of the preferred stream; None is FFmpeg's choice.

    Returns:
        The open file, and its video streams that can be decoded: at least one, the preferred one first, whose
        decoder is ready.

    Raises:
        VideoError: FFmpeg cannot open the file, its container is not allowed, it has no such stream, or it
            exceeds the budget.
    """
    max_pixels = {"max_pixels": str(budget.limits.max_frame_pixels)}
    try:
        container = av.open(
            f"file:{path}",
            options={**OPEN_OPTIONS, **max_pixels, "format_whitelist": ",".join(VIDEO_CONTAINERS)},
            timeout=budget.limits.stall_seconds,
            metadata_errors="replace",
        )
    except av.ArgumentError as error:  # FFmpeg also raises this for a container that is not on the list
        raise VideoError(path, "the file is not a video, or its container is not supported") from error
    except av.FFmpegError as error:
        reason = f"the file is not a video, or its start is damaged ({error.strerror})"
        raise VideoError(path, reason) from error
    try:
        best = container.streams.best("video")
        streams = [s for s in container.streams.video if not s.disposition & Disposition.attached_pic]
        if not streams:
            raise VideoError(path, "the file has no video stream")
        # A stream without a decoder has no context, contrary to PyAV's type stub.
        streams = [stream for stream in streams if stream.codec_context is not None]
        if not streams:
            raise VideoError(path, "there is no decoder for its video stream")
        streams.sort(key=lambda stream: (stream.index != stream_index, stream is not best))
        budget.require_num_frames(streams[0].frames)
        codec = streams[0].codec_context
        if codec.width and codec.height:
            budget.require_frame_size(codec.width, codec.height)
        codec.options = max_pixels
        codec.thread_count = 1  # with several, FFmpeg conceals damaged frames differently
    except VideoError:
        container.close()
        raise
    return container, streams


class Entry(NamedTuple):
    """A frame at which decoding can start."""

    number: int
    """Index of the frame."""
    timestamp: int
    """Timestamp to seek to, in the time base of the stream."""


class PacketList(NamedTuple):
    """The packets of a stream that give a frame."""

    timestamps: list[int]
    """Display times in the time base of the stream, sorted."""
    decoding_times: list[int]
    """Decoding times in the time base of the stream, in file order."""
    entries: list[Entry]
    """Frames at which decoding can start, in order."""
    num_packets: int
    """Number of packets, with and without a timestamp."""
    is_usable: bool
    """True if timestamps can identify frames: each packet has one of its own."""
    is_in_order: bool
    """True if packets are in display order in the file."""
    damage: str | None
    """Description of missing packets; None if none is missing."""


def list_packets(container: InputContainer, stream: VideoStream, budget: WorkBudget) -> PacketList:
    """List the packets of a stream.

    Args:
        container: The open file, at its start.
        stream: The video stream to list.
        budget: Limits on the number and the size of the packets.

    Raises:
        VideoError: The packets exceed `budget`.
    """
    displayed: list[int | None] = []
    decoded: list[int | None] = []
    keyframes: dict[int | None, int | None] = {}
    num_hidden = num_bytes = 0
    is_cut_off = False
    name, codec = container.format.name, stream.codec_context
    # The number stated in the file includes frames hidden by an edit list, and empty chunks of an AVI.
    num_indexed = len(stream.index_entries) if name.startswith(("mov", "avi")) else 0
    num_stated = min(stream.frames, num_indexed) if num_indexed else stream.frames
    for packet in packets(container, stream):
        num_bytes += packet.size
        budget.require_num_frames(len(displayed) + num_hidden + 1, num_bytes)
        # No frame: the packet is cut by an edit list, or is a VP8 reference frame without its show_frame bit.
        if packet.is_discard or (codec.name == "vp8" and not memoryview(packet)[0] & 0x10):
            num_hidden += 1
            continue
        displayed.append(packet.pts)
        decoded.append(packet.dts)
        is_cut_off = packet.is_corrupt
        if packet.is_keyframe:
            # FFmpeg seeks by decoding time in transport streams, by display time in other containers.
            keyframes[packet.pts] = packet.dts if name == "mpegts" else packet.pts
    if is_cut_off:
        displayed.pop()
        decoded.pop()
    damage = "its last frame is cut off" if is_cut_off else None
    if len(displayed) < num_stated - num_hidden:
        damage = f"only {len(displayed)} of its {num_stated - num_hidden} frames are in the file"
    elif name.startswith(("matroska", "flv")):  # which state no number of frames
        damage = _describe_early_end(container, stream, displayed) or damage
    timestamps = sorted(pts for pts in displayed if pts is not None)
    decoding_times = [dts for dts in decoded if dts is not None]
    # Timestamps of program streams (mpeg) differ after a seek.
    numbered = () if name == "mpeg" else enumerate(timestamps)
    is_usable = len(set(timestamps)) == len(displayed) and decoding_times == sorted(decoding_times)
    return PacketList(
        timestamps=timestamps,
        decoding_times=decoding_times,
        entries=[Entry(number, to) for number, pts in numbered if (to := keyframes.get(pts)) is not None],
        num_packets=len(displayed),
        # An AVI has no timestamps; those that FFmpeg generates are wrong if B-frames change the order.
        is_usable=is_usable and not (name == "avi" and codec.has_b_frames),
        is_in_order=timestamps == displayed,
        damage=damage,
    )


def _describe_early_end(
    container: InputContainer, stream: VideoStream, displayed: Sequence[int | None]
) -> str | None:
    """Return a sentence if a file ends before its stated duration, by more than 5 frames; else None."""
    shown = [pts for pts in displayed if pts is not None]
    if not container.duration or not shown:
        return None
    stated_duration = container.duration / av.time_base
    if stated := re.fullmatch(r"(\d+):(\d+):([\d.]+)", stream.metadata.get("DURATION", "")):
        hours, minutes, seconds = map(float, stated.groups())
        stated_duration = min(stated_duration, 3600 * hours + 60 * minutes + seconds)
    elif len(container.streams) > 1:
        return None  # the stated duration may be that of the audio
    first, last = (float(pts * (stream.time_base or 0)) for pts in (min(shown), max(shown)))
    missing = stated_duration - last
    step = (last - first) / (len(shown) - 1) if len(shown) > 1 else 1.0
    return f"the file ends {missing:.1f} seconds before its stated duration" if missing > 5 * step else None


def packets(container: InputContainer, stream: VideoStream) -> Iterator[Packet[VideoStream]]:
    """Yield the packets of a stream up to the end of the file, or up to where reading fails."""
    try:
        for packet in container.demux(stream):
            if packet.size:  # an empty packet repeats the last frame, or is the final packet of demux
                yield packet
    except (av.FFmpegError, IndexError):  # PyAV raises IndexError at the end if a new stream has appeared
        return


def decode_packets(
    packets: Iterable[Packet[VideoStream]], codec: VideoCodecContext, budget: WorkBudget, from_keyframe: bool
) -> Iterator[VideoFrame]:
    """Yield every frame that can be decoded from packets in file order.

    Args:
        packets: The packets of a stream.
        codec: The decoder of the stream.
        budget: Limits on the pixels and the time; VideoError is raised if they are exceeded.
        from_keyframe: Skip the packets before the first one where decoding can start.
    """
    stalled, start = 0.0, time.monotonic()
    for packet in chain(packets, [None]):  # None flushes the decoder
        if from_keyframe and packet is not None and not packet.is_keyframe:
            continue
        from_keyframe = False
        try:
            decoded = codec.decode(packet)
        except av.FFmpegError:
            decoded = []
        seconds = time.monotonic() - start
        budget.decode(sum(frame.width * frame.height for frame in decoded), seconds)
        stalled = 0.0 if decoded else stalled + seconds
        if stalled > budget.limits.stall_seconds:
            reason = f"the decoder returned no frame for {budget.limits.stall_seconds:g} seconds"
            raise VideoError(budget.path, reason)
        yield from decoded
        start = time.monotonic()  # excludes the time that the caller takes for the frames


def decode_image(path: Path, budget: WorkBudget) -> Tensor:
    """Decode an image file to uint8 RGB (H, W, 3).

    Raises:
        VideoError: The image is larger than the limits of `budget`.
        av.FFmpegError, StopIteration, IndexError: The image cannot be decoded.
    """
    pixels = str(budget.limits.max_frame_pixels)
    options = {**OPEN_OPTIONS, "format_whitelist": ",".join(IMAGE_CONTAINERS), "max_pixels": pixels}
    with av.open(f"file:{path}", options=options, timeout=budget.limits.stall_seconds) as container:
        codec = container.streams.video[0].codec_context
        budget.require_frame_size(codec.width, codec.height)
        codec.options = {"max_pixels": pixels}
        return RgbConverter()(next(container.decode(video=0)))


_EXIF: Final = 31  # AV_FRAME_DATA_EXIF

# Color matrices, primaries and transfer functions by their numbers in ITU-T H.273.
_SCALER_MATRICES: Final = frozenset({0, 1, 2, 4, 5, 6, 7, 9})
"""Color matrices that FFmpeg's scaler supports."""
_YCGCO, _DERIVED = 8, 12
_OTHER_MATRICES: Final = {
    3: "3 (reserved)",
    10: "BT.2020 with constant luminance",
    11: "SMPTE ST 2085",
    12: "derived from the primaries, which are unknown",
    13: "derived from the primaries, with constant luminance",
    14: "ICtCp",
    15: "IPT-C2",
    16: "YCgCo-Re",
    17: "YCgCo-Ro",
}
_MATRIX_OF_PRIMARIES: Final = {
    1: "bt709",
    4: "fcc",
    5: "bt470bg",
    6: "smpte170m",
    7: "smpte240m",
    9: "bt2020nc",
}
_HDR_TRANSFERS: Final = {16: "PQ", 18: "HLG"}


class RgbConverter:
    """Converter of decoded frames to upright uint8 RGB (H, W, 3), all in the size of the first frame.

    It uses a filter graph, because VideoFrame.reformat ignores the chroma location and rounds 10-bit values
    inaccurately. The scaler flags are FFmpeg's default, which decord also uses: pixels are bit-exact.
    """

    substitution: str | None = None
    """Unsupported color matrix and the one used instead; None if all matrices were supported."""
    notes: tuple[str, ...] = ()
    """Properties of the frames so far that may reduce accuracy: that they are HDR."""
    _graph: Graph | None = None
    _graph_for: tuple[object, ...] | None = None
    _size: str | None = None

    def __call__(self, frame: VideoFrame) -> Tensor:
        """Convert a frame.

        Args:
            frame: A decoded frame of any size and pixel format.

        Returns:
            uint8 RGB (H, W, 3).

        Raises:
            av.FFmpegError: The frame cannot be converted.
        """
        source = (
            *(frame.width, frame.height, frame.format.name),
            *(frame.colorspace, frame.color_range, frame.color_primaries, frame.color_trc),
        )
        if self._graph is None or source != self._graph_for:
            self._graph, self._graph_for = self._make_graph(frame), source
        self._graph.vpush(frame)
        converted = self._graph.vpull()
        rgb_hwc: NDArray[Any] = (
            _ycgco_to_rgb(converted) if frame.colorspace == _YCGCO else converted.to_ndarray()
        )
        a, b, c, d = display_matrix(frame)
        if abs(b) > abs(a):  # rounded to the nearest quarter turn
            rgb_hwc, a, d = rgb_hwc.transpose(1, 0, 2), c, b
        upright_hwc = rgb_hwc[:: -1 if d < 0 else 1, :: -1 if a < 0 else 1]
        return torch.from_numpy(np.ascontiguousarray(upright_hwc))

    def _make_graph(self, frame: VideoFrame) -> Graph:
        self._size = self._size or f"{frame.width}:{frame.height}"
        if (hdr := _HDR_TRANSFERS.get(int(frame.color_trc))) and not self.notes:
            self.notes = (f"colors look flat, because HDR ({hdr}) is not tone-mapped",)
        filters = [("scale", f"{self._size}:flags=bicubic")]
        if frame.colorspace == _YCGCO:
            # The scaler rejects this matrix even without a conversion, so it is relabeled.
            filters = [("setparams", "colorspace=bt709"), *filters, ("format", "yuv444p")]
        else:
            if frame.colorspace not in _SCALER_MATRICES:
                filters.insert(0, ("setparams", f"colorspace={self._replace_matrix(frame)}"))
            filters.append(("format", "rgb24"))
        return _graph(frame, *filters)

    def _replace_matrix(self, frame: VideoFrame) -> str:
        """Return the name of the matrix to use for one that the scaler does not support."""
        primaries = int(frame.color_primaries)
        if frame.colorspace == _DERIVED and primaries in _MATRIX_OF_PRIMARIES:
            return _MATRIX_OF_PRIMARIES[primaries]  # the exact matrix
        name = _OTHER_MATRICES.get(int(frame.colorspace), f"number {int(frame.colorspace)}")
        replacement = "bt2020nc" if frame.colorspace in (10, 14) else "bt709"
        replacement = _MATRIX_OF_PRIMARIES.get(primaries, replacement)
        self.substitution = (
            f"its color matrix is {name}, {replacement} was used instead: colors are approximate"
        )
        return replacement


def _graph(frame: VideoFrame, *filters: tuple[str, str]) -> Graph:
    graph = Graph()
    graph.threads = 1
    nodes: list[FilterContext] = [
        graph.add_buffer(
            width=frame.width, height=frame.height, format=frame.format, time_base=Fraction(1, 1000)
        ),
        *(graph.add(name, arguments) for name, arguments in filters),
        graph.add("buffersink"),
    ]
    graph.link_nodes(*nodes).configure()
    return graph


def _ycgco_to_rgb(frame: VideoFrame) -> NDArray[np.uint8]:
    """Convert a yuv444p frame with the planes Y, Cg and Co to RGB (H, W, 3), by ITU-T H.273."""
    full_range = frame.color_range == 2
    offset, luma_levels, chroma_levels = (0, 255, 255) if full_range else (16, 219, 224)
    y, cg, co = frame.to_ndarray().astype(np.float32)  # (H, W) each
    y = (y - offset) * (255 / luma_levels)
    cg, co = ((chroma - 128) * (255 / chroma_levels) for chroma in (cg, co))
    rgb_hwc = np.stack([y - cg + co, y + cg, y - cg - co], axis=-1)
    return rgb_hwc.round().clip(0, 255).astype(np.uint8)


def display_matrix(frame: VideoFrame) -> tuple[float, float, float, float]:
    """Return a, b, c, d of the display matrix, which moves the pixel at (x, y) to (ax + cy, bx + dy).

    FFmpeg also provides EXIF orientations as display matrices.
    """
    for has_exif in (False, True):
        # PyAV raises ValueError for a frame with side data of a type that it does not know, such as EXIF.
        with suppress(ValueError, av.FFmpegError):
            source = _remove_exif(frame) if has_exif else frame
            # PyAV's type stub has the element type instead of the container type.
            for side_data in cast("SideDataContainer", source.side_data):
                if side_data.type is Type.DISPLAYMATRIX:
                    a, b, _, c, d, *_ = struct.unpack("=9i", bytes(side_data))
                    return a, b, c, d
            return 1.0, 0.0, 0.0, 1.0
    turn = math.radians(frame.rotation)
    return math.cos(turn), -math.sin(turn), math.sin(turn), math.cos(turn)


def _remove_exif(frame: VideoFrame) -> VideoFrame:
    graph = _graph(frame, ("sidedata", f"mode=delete:type={_EXIF}"))
    graph.vpush(frame)
    return graph.vpull()
