"""Milliseconds per frame of 1080p before the model: decoding, conversion to RGB, resizing.

    python benchmarks/reading.py --output benchmarks/results/reading.json

Frames of a synthetic H.264 video are resized to a short side of 224, as for the published models, in one
thread. Conversion is timed with the default flags and with `accurate_rnd`. The last rows convert
and resize in one pass of the scaler; they also have the difference of the pixels from converting first and
then resizing.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
from collections import deque
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import torch
from av.filter import Graph
from av.video.frame import VideoFrame
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parents[1]))
from benchmarks.measure import circumstances, quartiles, result_file, time_in_turn
from videoswin.camera_motion.camera import MotionRange, camera_path, to_pixels, view_from_base, warp
from videoswin.camera_motion.clips import write_h264
from videoswin.camera_motion.scenes import landscape
from videoswin.video.ffmpeg import RgbConverter
from videoswin.video.views import resize_short_side

HEIGHT, WIDTH, FPS, FRAMES = 1080, 1920, 30, 20
SHORT_SIDE = 224
SCALER_FLAGS = ("bilinear", "fast_bilinear", "bicubic", "area", "neighbor")

Row = dict[str, Any]


def write_film(path: Path) -> None:
    """Write a video of a generated scene, recorded by a hand-held camera."""
    rng = np.random.default_rng(0)
    times = np.arange(FRAMES) / FPS
    motion = MotionRange(slowest=0.03, fastest=0.05, shake=0.004, easing=0.0)
    poses = camera_path(rng, 1, times, FRAMES / FPS, motion)
    scene_from_base = view_from_base(poses, WIDTH / HEIGHT, width=WIDTH / HEIGHT)
    film = warp(landscape(rng, WIDTH), scene_from_base, (HEIGHT, WIDTH), outside="reflection")
    write_h264(path, to_pixels(film), fps=FPS, crf=23)


def decode(path: Path) -> Iterator[VideoFrame]:
    with av.open(str(path)) as container:
        container.streams.video[0].thread_count = 1
        yield from container.decode(video=0)


def scaled(frames: list[VideoFrame], width: int, height: int, flags: str) -> Iterator[Tensor]:
    """Convert each frame to RGB and resize it in the same pass: uint8 (height, width, 3)."""
    graph = Graph()
    graph.threads = 1
    graph.link_nodes(
        graph.add_buffer(
            width=frames[0].width,
            height=frames[0].height,
            format=frames[0].format,
            time_base=Fraction(1, 1000),
        ),
        graph.add("scale", f"{width}:{height}:flags={flags}"),
        graph.add("format", "rgb24"),
        graph.add("buffersink"),
    ).configure()
    for frame in frames:
        graph.vpush(frame)
        yield torch.from_numpy(graph.vpull().to_ndarray())


def resized(frames_hwc: list[Tensor], *, antialias: bool) -> Iterator[Tensor]:
    for frame_hwc in frames_hwc:
        yield resize_short_side(frame_hwc[None], SHORT_SIDE, antialias)[0]


def measured(path: Path, rounds: int) -> list[Row]:
    """Return the time of each step, and the time and error of each scaler flag for convert-and-resize."""
    frames = list(decode(path))
    rgb = list(map(RgbConverter(), frames))
    height, width = next(resized(rgb, antialias=False)).shape[:2]
    passes: dict[str, Callable[[], Iterator[object]]] = {
        "decode": lambda: decode(path),
        "convert": lambda: map(RgbConverter(), frames),
        "convert with accurate_rnd": lambda: scaled(frames, WIDTH, HEIGHT, "bicubic+accurate_rnd"),
        "resize": lambda: resized(rgb, antialias=False),
        "resize with antialias": lambda: resized(rgb, antialias=True),
    }
    for flags in SCALER_FLAGS:
        passes[f"convert and resize in the scaler, {flags}"] = lambda flags=flags: scaled(
            frames, width, height, flags
        )
    # Frames are freed one by one, as in prediction: keeping them would add time for memory allocation.
    whole = {step: lambda each=each: deque(each(), maxlen=0) for step, each in passes.items()}
    for one_pass in whole.values():
        one_pass()
    _, cpu = time_in_turn(whole, rounds)
    rows = [{"step": step, "cpu_ms_per_frame": milliseconds(cpu[step], len(frames))} for step in passes]
    for row, flags in zip(rows[-len(SCALER_FLAGS) :], SCALER_FLAGS, strict=True):
        seen = torch.stack(list(scaled(frames, width, height, flags))).int()
        for name, antialias in (("", False), (" with antialias", True)):
            difference = (seen - torch.stack(list(resized(rgb, antialias=antialias))).int()).abs()
            row[f"difference_from_resize{name}"] = {
                "mean": round(float(difference.float().mean()), 3),
                "largest": int(difference.max()),
            }
    return rows


def milliseconds(seconds: list[float], frames: int) -> Row:
    low, _, high = quartiles(seconds)
    return {
        "median": round(1000 * statistics.median(seconds) / frames, 2),
        "quartiles": [round(1000 * low / frames, 2), round(1000 * high / frames, 2)],
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5, help="timed passes of each step")
    parser.add_argument("--output", type=result_file, help="JSON file for the results")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    report: Row = {"circumstances": circumstances(), "size": [WIDTH, HEIGHT], "rounds": arguments.rounds}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "film.mp4")
        write_film(path)
        report["rows"] = measured(path, arguments.rounds)
    for row in report["rows"]:
        print(row, flush=True)
    if arguments.output:
        arguments.output.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
