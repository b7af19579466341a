"""What a container says of its video stream without decoding it: codec, rotation, constancy of the rate."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import av
import numpy as np

from videoswin.video.containers import VIDEO_CONTAINERS, open_options
from videoswin.video.limits import ReadLimits

RATE_SPREAD: Final = 0.25
"""The steps between frames vary if one in twenty differs from the median step by more than this fraction."""


@dataclass(frozen=True, kw_only=True)
class StreamFacts:
    """Properties of a video stream; of a folder of frames none is known."""

    codec: str | None = None
    """As FFmpeg names it, such as h264, hevc, vp9."""
    rotation: int = 0
    """Degrees counterclockwise by which players, and this package, turn the frames."""
    variable_rate: bool = False
    """Whether the time between two frames changes within the video."""


def read_stream_facts(path: str) -> StreamFacts:
    """Return the properties of the first video stream of a file that `open_video` has read."""
    limits = ReadLimits()
    options = open_options(VIDEO_CONTAINERS, limits.max_frame_pixels)
    with av.open(
        f"file:{path}", options=options, timeout=limits.stall_seconds, metadata_errors="replace"
    ) as container:
        stream = container.streams.best("video")
        assert stream is not None, path
        times = []
        for packet in container.demux(stream):
            if packet.pts is not None and not packet.is_discard:
                times.append(packet.pts)
        container.seek(0)
        try:
            rotation = next(container.decode(stream)).rotation  # type: ignore[union-attr]
        except (av.FFmpegError, StopIteration):
            rotation = 0  # the first frame is damaged, which is reported elsewhere
        return StreamFacts(
            codec=stream.codec_context.name,
            rotation=round(rotation) % 360,
            variable_rate=_varies(np.sort(np.array(times))),
        )


def _varies(times: np.ndarray) -> bool:
    """Whether the steps between sorted timestamps are of several lengths, rounding aside."""
    steps = np.diff(times)
    if len(steps) < 4:
        return False
    usual = np.median(steps)
    # Time bases of a millisecond make steps of 33 and 34 out of 33.3.
    different = np.abs(steps - usual) > max(RATE_SPREAD * usual, 1)
    return bool(different.mean() > 0.05)
