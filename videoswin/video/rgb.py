"""Convert decoded frames to upright RGB pixels with the colors of `ffmpeg -pix_fmt rgb24`."""

from __future__ import annotations

import math
import struct
from contextlib import suppress
from fractions import Fraction
from typing import Any, Final, cast

import av
import numpy as np
import torch
from av.filter import Graph
from av.filter.context import FilterContext
from av.sidedata.sidedata import SideDataContainer, Type
from av.video.frame import VideoFrame
from numpy.typing import NDArray
from torch import Tensor

_EXIF: Final = 31  # AV_FRAME_DATA_EXIF

# Color matrices, primaries and transfer functions by their numbers in ITU-T H.273.
_SCALER_MATRICES: Final = frozenset({0, 1, 2, 4, 5, 6, 7, 9})
"""Color matrices that FFmpeg's scaler supports."""
_YCGCO: Final = 8
_DERIVED: Final = 12
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

    def __init__(self) -> None:
        self.substitution: str | None = None
        """Unsupported color matrix and the one used instead; None if all matrices were supported."""
        self.hdr: str | None = None
        """HDR transfer function of the frames so far, "PQ" or "HLG"; None if they are SDR."""
        self._graph: Graph | None = None
        self._graph_for: tuple[object, ...] | None = None
        self._size: str | None = None

    def __call__(self, frame: VideoFrame) -> Tensor:
        source = (
            *(frame.width, frame.height, frame.format.name),
            *(frame.colorspace, frame.color_range, frame.color_primaries, frame.color_trc),
        )
        if self._graph is None or source != self._graph_for:
            self._graph, self._graph_for = self._make_graph(frame), source
        self._graph.vpush(frame)
        converted = self._graph.vpull()
        pixels_hwc = _ycgco_to_rgb(converted) if frame.colorspace == _YCGCO else converted.to_ndarray()
        return torch.from_numpy(np.ascontiguousarray(_rotate_upright(pixels_hwc, *display_matrix(frame))))

    def _make_graph(self, frame: VideoFrame) -> Graph:
        self._size = self._size or f"{frame.width}:{frame.height}"
        self.hdr = self.hdr or _HDR_TRANSFERS.get(int(frame.color_trc))
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


def _rotate_upright(rgb_hwc: NDArray[Any], a: float, b: float, c: float, d: float) -> NDArray[Any]:
    """Move the pixel at (x, y) to (ax + cy, bx + dy), rounded to the nearest quarter turn."""
    if abs(b) > abs(a):
        rgb_hwc, a, d = rgb_hwc.transpose(1, 0, 2), c, b
    return rgb_hwc[:: -1 if d < 0 else 1, :: -1 if a < 0 else 1]


def display_matrix(frame: VideoFrame) -> tuple[float, float, float, float]:
    """Return a, b, c, d of the display matrix, which moves the pixel at (x, y) to (ax + cy, bx + dy).

    FFmpeg also provides EXIF orientations as display matrices.
    """
    for prepare in (_keep, _remove_exif):
        # PyAV raises ValueError for a frame with side data of a type that it does not know, such as EXIF.
        with suppress(ValueError, av.FFmpegError):
            # PyAV's type stub has the element type instead of the container type.
            for side_data in cast("SideDataContainer", prepare(frame).side_data):
                if side_data.type is Type.DISPLAYMATRIX:
                    a, b, _, c, d, *_ = struct.unpack("=9i", bytes(side_data))
                    return a, b, c, d
            return 1.0, 0.0, 0.0, 1.0
    turn = math.radians(frame.rotation)
    return math.cos(turn), -math.sin(turn), math.sin(turn), math.cos(turn)


def _keep(frame: VideoFrame) -> VideoFrame:
    return frame


def _remove_exif(frame: VideoFrame) -> VideoFrame:
    graph = _graph(frame, ("sidedata", f"mode=delete:type={_EXIF}"))
    graph.vpush(frame)
    return graph.vpull()
