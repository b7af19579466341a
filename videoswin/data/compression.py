"""What a camera's file does to its pixels: H.264 there and back in memory, or into a file."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import torch
from torch import Tensor

from videoswin.video.rgb import RgbConverter


def through_h264(frames_thwc: Tensor, *, crf: int, preset: str, keep: list[int]) -> Tensor:
    """Frames `keep` of the uint8 film (T, H, W, 3), H and W even, after libx264 at quality `crf` and back.

    Even with one thread libx264 does not give the same bits every time.
    """
    encoder = av.CodecContext.create("libx264", "w")
    _, encoder.height, encoder.width, _ = frames_thwc.shape
    encoder.pix_fmt, encoder.time_base = "yuv420p", Fraction(1, 30)
    encoder.options = {"crf": str(crf), "preset": preset, "threads": "1"}
    packets = []
    for index, pixels in enumerate(frames_thwc.numpy()):
        frame = av.VideoFrame.from_ndarray(pixels, format="rgb24").reformat(format="yuv420p", threads=1)
        frame.pts = index
        packets += encoder.encode(frame)
    packets += encoder.encode(None)

    decoder = av.CodecContext.create("h264", "r")
    decoder.thread_count = 1
    decoded = [frame for packet in [*packets, None] for frame in decoder.decode(packet)]
    to_rgb = RgbConverter()
    return torch.stack([to_rgb(decoded[index]) for index in keep])


def write_h264(path: Path, frames_thwc: Tensor, *, fps: int, crf: int, preset: str = "medium") -> None:
    """Write uint8 frames (T, H, W, 3), H and W even, as an H.264 file."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=fps)
        _, stream.height, stream.width, _ = frames_thwc.shape
        stream.pix_fmt = "yuv420p"
        stream.options = {"crf": str(crf), "preset": preset}
        for pixels in frames_thwc.numpy():
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode(None))
