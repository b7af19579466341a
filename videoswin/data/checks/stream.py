"""What a container says of its video stream: codec, rotation, constancy of the rate."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import av

from videoswin.video.containers import VIDEO_CONTAINERS, open_options
from videoswin.video.ffmpeg import video_streams
from videoswin.video.reader import VideoReader
from videoswin.video.rgb import display_matrix


@dataclass(frozen=True, kw_only=True)
class StreamFacts:
    """Properties of a video stream; of a folder of frames none is known."""

    codec: str | None = None
    """As FFmpeg names it, such as h264, hevc, vp9."""
    rotation: int = 0
    """Degrees counterclockwise by which players, and this package, turn the frames."""
    mirrored: bool = False
    """Whether they are mirrored, too."""
    variable_rate: bool = False
    """Whether the time between two frames changes within the video."""


def read_stream_facts(video: VideoReader) -> StreamFacts:
    """Return the properties of the stream that `video` reads, from the head of its file."""
    if video.path.is_dir():
        return StreamFacts()
    options = open_options(VIDEO_CONTAINERS, video.limits.max_frame_pixels)
    with av.open(
        f"file:{video.path}", options=options, timeout=video.limits.stall_seconds, metadata_errors="replace"
    ) as container:
        stream = video_streams(Path(video.path), container)[0]
        try:
            a, b, c, d = display_matrix(next(container.decode(stream)))
        except (av.FFmpegError, StopIteration):
            a, b, c, d = 1.0, 0.0, 0.0, 1.0  # the first frame is damaged, which is reported elsewhere
        mirrored = a * d < b * c
        return StreamFacts(
            codec=stream.codec_context.name,
            rotation=round(math.degrees(math.atan2(-b, -a if mirrored else a))) % 360,
            mirrored=mirrored,
            variable_rate=video.times is not None,
        )
