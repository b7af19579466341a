"""Videos whose frames show their own number, so that a test can tell which frame it was given."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from torch import Tensor

WIDTH, HEIGHT = 96, 64


def numbered_picture(number: int, width: int = WIDTH, height: int = HEIGHT) -> np.ndarray:
    """RGB: the number in binary as eight black or white bars (top half), orange below."""
    picture = np.full((height, width, 3), (200, 60, 30), np.uint8)
    for bit in range(8):
        picture[: height // 2, bit * width // 8 : (bit + 1) * width // 8] = 255 * (number >> bit & 1)
    return picture


def frame_number(frame_hwc: Tensor) -> int:
    """The number that `numbered_picture` drew."""
    height, width = frame_hwc.shape[:2]
    bars = (
        frame_hwc[height // 8 : 3 * height // 8, (2 * bit + 1) * width // 16].float().mean()
        for bit in range(8)
    )
    return sum(int(bar > 127) << bit for bit, bar in enumerate(bars))


def write_video(
    path: Path,
    pictures: Sequence[np.ndarray],
    *,
    codec: str = "libx264",
    pix_fmt: str = "yuv420p",
    fps: int = 30,
    keyframe_every: int = 12,
    b_frames: int | None = None,
    options: dict[str, str] | None = None,
    container_options: dict[str, str] | None = None,
    container_format: str | None = None,
    milliseconds: Sequence[int] | None = None,
    rotation: int = 0,
) -> Path:
    """A file with these pictures as frames, at `fps` or shown at `milliseconds`."""
    time_base = Fraction(1, fps if milliseconds is None else 1000)
    with av.open(str(path), "w", format=container_format, options=container_options or {}) as container:
        stream = container.add_stream(codec, rate=fps, options=options or {})
        stream.height, stream.width = pictures[0].shape[:2]
        stream.pix_fmt = pix_fmt
        stream.codec_context.time_base = time_base
        stream.codec_context.gop_size = keyframe_every
        if b_frames is not None:
            stream.codec_context.max_b_frames = b_frames
        if rotation:
            stream.set_display_rotation(rotation)
        for number, picture in enumerate(pictures):
            frame = av.VideoFrame.from_ndarray(picture, "rgb24").reformat(format=pix_fmt)
            frame.pts = number if milliseconds is None else milliseconds[number]
            frame.time_base = time_base
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def write_image(path: Path, picture: np.ndarray) -> Path:
    """An image file of the kind that its name says."""
    codec, pix_fmt = {
        ".jpg": ("mjpeg", "yuvj444p"),
        ".jpeg": ("mjpeg", "yuvj420p"),
        ".png": ("png", "rgb24"),
        ".bmp": ("bmp", "bgr24"),
        ".webp": ("libwebp", "bgra"),
    }[path.suffix.lower()]
    codec_context = av.CodecContext.create(codec, "w")
    codec_context.height, codec_context.width = picture.shape[:2]
    codec_context.pix_fmt = pix_fmt
    codec_context.time_base = Fraction(1, 1)
    frame = av.VideoFrame.from_ndarray(picture, "rgb24").reformat(format=pix_fmt)
    frame.pts = 0
    packets = [*codec_context.encode(frame), *codec_context.encode(None)]
    path.write_bytes(b"".join(bytes(packet) for packet in packets))
    return path
