"""Videos per second from files to predictions, compared with decoding alone and the model alone.

    python benchmarks/file_to_prediction.py --output benchmarks/results/file_to_prediction.json

Ten seconds of H.264, 340x256 at 30 fps, in three cases: the bundled model, where decoding is most of the
work, and Swin-T with random weights at one and at twelve views, where the model is. Decoding alone uses as
many threads as `predict_all`; the model alone gets loaded views, and `predict_all` must return the same
probabilities. The three take turns in one process. `of_the_slower` is the throughput of `predict_all`
relative to the slower of the two.

On a CPU, decoding and the model share the cores: together they take at least the sum of their CPU seconds
divided by the number of cores. `of_the_bound` is the throughput relative to this bound, or to the slower of
the two where that takes longer.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parents[1]))
from benchmarks.measure import circumstances, quartiles, result_file, time_in_turn
from videoswin import TINY, Checkpoint, ClipSpec, Prediction, Predictor, VideoSwin, ViewPlan
from videoswin.camera_motion.camera import (
    LABELS,
    MotionRange,
    camera_path,
    to_pixels,
    view_from_base,
    warp,
)
from videoswin.camera_motion.clips import write_h264
from videoswin.camera_motion.scenes import landscape
from videoswin.inference.prefetch import decoding_threads, load_ahead

SECONDS, FPS = 10.0, 30
HEIGHT, WIDTH = 256, 340
MOST_VIDEOS = 24
MAX_DIFFERENCE = 1e-3
"""Tolerance of probabilities: they are equal on a CPU; on a GPU, batches may have other sizes."""

Row = dict[str, Any]


class Case(NamedTuple):
    """A model with its protocol, and the number of videos."""

    name: str
    predictor: Callable[[str], Predictor]
    videos: int


def camera_motion(device: str) -> Predictor:
    return Predictor.from_pretrained("camera-motion", device=device)


def tiny(protocol: str) -> Callable[[str], Predictor]:
    """Return a function that builds a predictor: Swin-T with random weights."""

    def build(device: str) -> Predictor:
        torch.manual_seed(0)
        checkpoint = Checkpoint(
            weights=VideoSwin(TINY).state_dict(),
            config=TINY,
            clip=ClipSpec(),
            views=ViewPlan(),
            labels=tuple(map(str, range(TINY.num_classes))),
            name="random",
        )
        return Predictor(checkpoint, device=device, protocol=protocol)

    return build


CASES = (
    Case("camera-motion 3x3", camera_motion, MOST_VIDEOS),
    Case("Swin-T fast-1x1", tiny("fast-1x1"), 12),
    Case("Swin-T official-4x3", tiny("official-4x3"), 2),
)


def write_films(folder: Path) -> list[Path]:
    """Write MOST_VIDEOS videos of a generated scene, recorded by a hand-held camera."""
    paths = [folder / f"{number}.mp4" for number in range(MOST_VIDEOS)]
    for number, path in enumerate(paths):
        rng = np.random.default_rng(number)
        times = np.arange(round(SECONDS * FPS)) / FPS
        motion = MotionRange(slowest=0.03, fastest=0.05, shake=0.004, easing=0.0)
        poses = camera_path(rng, number % len(LABELS), times, SECONDS, motion)
        scene_from_base = view_from_base(poses, WIDTH / HEIGHT, width=WIDTH / HEIGHT)
        film = warp(landscape(rng, 640), scene_from_base, (HEIGHT, WIDTH), outside="reflection")
        write_h264(path, to_pixels(film), fps=FPS, crf=23)
    return paths


def measured(case: Case, device: str, threads: int, rounds: int, films: list[Path]) -> Row:
    """Time decoding, the model and both for the videos of a case; SystemExit if probabilities differ."""
    predictor, paths = case.predictor(device), films[: case.videos]
    views = [predictor.load(path).pixels for path in paths]
    passes: dict[str, Callable[[], Any]] = {
        "decode": lambda: deque(load_ahead(predictor.load, paths, threads=threads), maxlen=0),
        "model": lambda: [predictor.score(of_one) for of_one in views],
        "predict_all": lambda: [
            found.probabilities if isinstance(found, Prediction) else found
            for found in predictor.predict_all(paths, threads=threads)
        ],
    }
    alone, together = passes["model"](), passes["predict_all"]()  # also warms up
    difference = float((torch.stack(alone) - torch.stack(together)).abs().max())
    if not difference <= MAX_DIFFERENCE:
        raise SystemExit(f"{case.name}: probabilities differ by {difference}; timing stopped")
    wall, cpu = time_in_turn(passes, rounds)
    cores = len(os.sched_getaffinity(0))
    slower = [max(pair) for pair in zip(wall["decode"], wall["model"], strict=True)]
    shared = [sum(pair) / cores for pair in zip(cpu["decode"], cpu["model"], strict=True)]
    bounds = [max(pair) for pair in zip(slower, shared, strict=True)]
    return {
        "case": case.name,
        "device": device,
        "decoding_threads": threads,
        "videos": len(paths),
        "largest_difference": difference,
        "videos_per_second": {name: spread([len(paths) / s for s in wall[name]]) for name in wall},
        "processor_seconds_per_video": {
            name: round(statistics.median(cpu[name]) / len(paths), 4) for name in cpu
        },
        "slower": "decode" if sum(wall["decode"]) > sum(wall["model"]) else "model",
        "of_the_slower": spread(ratio(slower, wall["predict_all"])),
        "bound": "the slower" if sum(slower) >= sum(shared) else "shared cores",
        "bound_of_the_slower": spread(ratio(slower, bounds)),
        "of_the_bound": spread(ratio(bounds, wall["predict_all"])),
    }


def spread(values: list[float]) -> Row:
    low, median, high = quartiles(values)
    return {"median": round(median, 3), "quartiles": [round(low, 3), round(high, 3)]}


def ratio(above: list[float], below: list[float]) -> list[float]:
    """Return the ratio of each round."""
    return [a / b for a, b in zip(above, below, strict=True)]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5, help="timed passes of decoding, model and both")
    parser.add_argument("--device", default="cpu")
    parser.add_argument(
        "--threads", type=int, nargs="+", help="decoding threads; by default as many as predict uses"
    )
    parser.add_argument("--cases", type=int, nargs="+", choices=range(len(CASES)), default=range(len(CASES)))
    parser.add_argument("--output", type=result_file, help="JSON file for the results")
    arguments = parser.parse_args()
    report: Row = {
        "circumstances": circumstances(),
        "rounds": arguments.rounds,
        "warm_up_passes": 1,
        "rows": [],
    }
    with tempfile.TemporaryDirectory() as folder:
        films = write_films(Path(folder))
        for case in (CASES[number] for number in arguments.cases):
            for threads in arguments.threads or [decoding_threads(torch.device(arguments.device))]:
                row = measured(case, arguments.device, threads, arguments.rounds, films)
                report["rows"].append(row)
                print(row, flush=True)
    if arguments.output:
        arguments.output.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
