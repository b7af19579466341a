"""Accuracy and time of fewer views per video, with the bundled model on unseen synthetic videos.

    python benchmarks/approximate_views.py --clips ../shared/clips

Each video shows one camera movement, H.264 at 30 fps; half are rendered from unseen photographs, half from
single frames of real videos. Every second video belongs to the model's test set (camera_motion.py); the
others are three times as long, slower and shakier. All protocols are applied to the same file; the exact
one is official-4x3. Seconds are CPU time on one thread. Run the same command again to resume.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parents[1]))
from benchmarks.camera_motion import FPS, PRESET, SIZES, film_of, predictor_of, real_frames, test_photos
from benchmarks.camera_motion import MOTION as TEST_MOTION
from benchmarks.camera_motion import SECONDS as TEST_SECONDS
from benchmarks.measure import circumstances, result_file
from videoswin import ViewPlan
from videoswin.camera_motion.camera import LABELS, MotionRange
from videoswin.camera_motion.clips import write_h264
from videoswin.evaluation.metrics import wilson_interval
from videoswin.video.spec import apply_protocol
from videoswin.video.views import load_views

RESULTS = Path("benchmarks/results/approximate_views.json")
MODEL = "camera-motion"


class Films(NamedTuple):
    """Settings of one kind of video; crf is the range of H.264 rate factors."""

    seconds: float
    motion: MotionRange
    crf: tuple[int, int]


KINDS = {
    "test set": Films(TEST_SECONDS, TEST_MOTION, (18, 33)),
    "slow and shaky": Films(6.0, MotionRange(slowest=0.02, fastest=0.15, shake=0.03, easing=0.5), (24, 40)),
}
"""Every protocol is correct on easy videos, so half of the videos are harder than the training data."""
MARGINS = (0.2, 0.35, 0.5, 0.65, 0.8, 0.9, 0.95)
EXACT = "official-4x3"
OWN = "own 3x3"
WAYS = (EXACT, OWN, "4x1", "full-frame-4x1", "fast-1x1", "full-frame-1x1")

Row = dict[str, Any]


def looked_at(clips: str, number: int) -> Row:
    """Return the label of video `number`, and the prediction, views and CPU seconds of every protocol."""
    torch.set_num_threads(1)
    kind = list(KINDS)[number % 2]
    seconds, motion, crf = KINDS[kind]
    rng = np.random.default_rng((2027, number))
    label, size = number // 4 % len(LABELS), SIZES[number // 4 // len(LABELS) % len(SIZES)]
    photos = real_frames(clips) if number // 2 % 2 else test_photos()
    film_thwc = film_of(rng, photos, label, size, seconds=seconds, motion=motion)
    ways: dict[str, Row] = {}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "film.mp4")
        write_h264(path, film_thwc, fps=FPS, crf=int(rng.integers(*crf)), preset=PRESET)
        for way in WAYS:
            views, decoding = loaded(path, plan_of(way))
            ways[way] = answered(views, plan_of(way), decoding)
        first_margin, *_ = plans = [plan_of(EXACT).replace(margin=margin) for margin in MARGINS]
        views, decoding = loaded(path, first_margin)  # all margins score the same views in the same order
        for plan in plans:
            ways[adaptive(plan.margin)] = answered(views, plan, decoding)
    return {"number": number, "kind": kind, "label": label, "ways": ways}


def adaptive(margin: float) -> str:
    """Return the name in the results of official-4x3 with this margin."""
    return f"adaptive, margin {margin:g}"


def plan_of(way: str) -> ViewPlan:
    """Return the view plan of a protocol; every clip has 8 frames at 4 Hz."""
    predictor = predictor_of(MODEL)
    plans = {OWN: ViewPlan(clips=3, crops=3), "4x1": ViewPlan(clips=4, crops=1)}
    return plans[way] if way in plans else apply_protocol(way, predictor.clip)[1]


def loaded(path: Path, plan: ViewPlan) -> tuple[Tensor, float]:
    """Return the views of a video and the CPU seconds of decoding."""
    since = time.process_time()
    views = load_views(path, predictor_of(MODEL).clip, plan).pixels
    return views, time.process_time() - since


def answered(views: Tensor, plan: ViewPlan, decode_seconds: float) -> Row:
    """Return the most probable class, the number of views scored, and the CPU seconds."""
    predictor = predictor_of(MODEL)
    predictor.views = plan
    since = time.process_time()
    means, (num_scored,) = predictor.score_videos([views], 1)
    return {
        "answer": int(means[0].argmax()),
        "views": num_scored,
        "decode_seconds": round(decode_seconds, 5),
        "model_seconds": round(time.process_time() - since, 5),
    }


def summary(rows: list[Row]) -> dict[str, Row]:
    """Return accuracy, agreement with EXACT, mean views and mean CPU seconds of every protocol."""
    figures = {}
    for way in rows[0]["ways"]:
        found = [row["ways"][way] for row in rows]
        right = sum(row["ways"][way]["answer"] == row["label"] for row in rows)
        low, high = wilson_interval(right / len(rows), len(rows))
        same = sum(row["ways"][way]["answer"] == row["ways"][EXACT]["answer"] for row in rows)
        figures[way] = {
            "top1": round(right / len(rows), 4),
            "top1_interval_95": [round(low, 4), round(high, 4)],
            "agrees_with_exact": round(same / len(rows), 4),
            "views_mean": round(statistics.mean(row["views"] for row in found), 2),
            "decode_seconds": round(statistics.mean(row["decode_seconds"] for row in found), 4),
            "model_seconds": round(statistics.mean(row["model_seconds"] for row in found), 4),
        }
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--clips", default="../shared/clips", help="folder of real videos")
    parser.add_argument("--count", type=int, default=360, help="number of videos, half of each kind")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--progress", type=Path, default=Path("runs/approximate_views.jsonl"))
    parser.add_argument("--output", type=result_file, default=RESULTS)
    arguments = parser.parse_args()
    conditions = circumstances()
    arguments.progress.parent.mkdir(parents=True, exist_ok=True)
    arguments.progress.touch()
    rows = [json.loads(line) for line in arguments.progress.read_text().splitlines()]
    before = {row.get("commit", "an unknown commit") for row in rows}
    if before - {conditions["commit"]} or any(commit.endswith("+") for commit in before):
        raise SystemExit(f"{arguments.progress} has videos of {', '.join(before)}: remove it to start again")
    remaining = sorted(set(range(arguments.count)) - {row["number"] for row in rows})
    with (
        ProcessPoolExecutor(arguments.workers, mp_context=get_context("spawn")) as pool,
        arguments.progress.open("a") as progress,
    ):
        for row in pool.map(partial(looked_at, arguments.clips), remaining):
            row["commit"] = conditions["commit"]
            rows.append(row)
            print(json.dumps(row), file=progress, flush=True)
    report = {
        "circumstances": {**conditions, "threads": 1},
        "model": MODEL,
        "exact": EXACT,
        "kinds": {
            kind: {
                "films": len(of_kind := [row for row in rows if row["kind"] == kind]),
                "seconds_of_film": films.seconds,
                "ways": summary(of_kind),
            }
            for kind, films in KINDS.items()
        },
    }
    arguments.output.write_text(json.dumps(report, indent=1) + "\n")
    print(json.dumps(report["kinds"], indent=1))


if __name__ == "__main__":
    main()
