"""Accuracy, memory and speed of `videoswin timeline` with the bundled model on generated videos.

    python benchmarks/timeline.py --output benchmarks/results/timeline.json

Accuracy: videos of one minute whose camera movements are known. Each movement lasts 2.5 to 8 seconds and
begins with a cut to another scene, or continues in the same one. A segment is correct if its label is right
and it overlaps a movement by an IoU of at least 0.5. Edges are those of correct segments, without the ends of
the video.
The defaults of `timeline` were chosen on the seeds of `--choose`; the results are those of other seeds.

Memory and speed: one of these videos, repeated without encoding it again to half an hour and to two hours.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parents[1]))
from benchmarks.measure import circumstances, in_fresh_process, peak_and_added_mib, result_file
from videoswin import Predictor
from videoswin.analysis.segments import Span
from videoswin.analysis.timeline import Scan, scan, score_window
from videoswin.analysis.windows import seconds_ahead, sliding_windows
from videoswin.camera_motion.camera import LABELS, MotionRange, camera_path, to_pixels, view_from_base, warp
from videoswin.camera_motion.clips import write_h264
from videoswin.camera_motion.scenes import landscape
from videoswin.video.stream import VideoStream

FPS, HEIGHT, WIDTH = 25, 120, 160
SECONDS = 60.0
HOPS = (2.0, 1.0, 0.5, 0.25)
"""Seconds between windows of 2 seconds, the clip of the bundled model."""
THRESHOLDS = (0.2, 0.3, 0.5)
CHOSEN_ON, MEASURED_ON = range(8), range(100, 108)
"""Seeds of videos."""
MIN_IOU = 0.5


class Movement(NamedTuple):
    """A movement of the camera: its time in seconds, and its label."""

    start: float
    end: float
    label: int


def write_movements(path: Path, seed: int) -> list[Movement]:
    """Write a video of random camera movements and return them."""
    rng = np.random.default_rng(seed)
    motion = MotionRange(slowest=0.1, fastest=0.3, shake=0.004, easing=0.0)
    movements: list[Movement] = []
    frames, offset, scene = [], np.zeros(4), landscape(rng, 480)
    while not movements or movements[-1].end < SECONDS:
        start = movements[-1].end if movements else 0.0
        count = round(float(rng.uniform(2.5, 8)) * FPS)
        last = movements[-1].label if movements else -1
        label = int(rng.choice([label for label in range(len(LABELS)) if label != last]))
        if rng.random() < 0.5:
            scene, offset = landscape(rng, 480), np.zeros(4)
        poses = camera_path(rng, label, np.arange(count) / FPS, count / FPS, motion)
        poses = poses - poses[0] + offset
        offset = 2 * poses[-1] - poses[-2]  # the movement continues where it was
        view = view_from_base(poses, WIDTH / HEIGHT, width=WIDTH / HEIGHT)
        frames.append(to_pixels(warp(scene, view, (HEIGHT, WIDTH), outside="reflection")))
        movements.append(Movement(start, start + count / FPS, label))
    write_h264(path, torch.cat(frames), fps=FPS, crf=23, preset="veryfast")
    return movements


def match(movements: list[Movement], spans: list[Span]) -> tuple[int, list[float]]:
    """Return the number of correct spans and the errors of their edges in seconds."""
    free, errors, correct = set(range(len(movements))), [], 0
    for span in sorted(spans, key=lambda span: -span.probability):
        best, index = max(
            ((_iou(movements[i], span), i) for i in free if movements[i].label == span.class_index),
            default=(0.0, -1),
        )
        if best < MIN_IOU:
            continue
        free.remove(index)
        correct += 1
        start, end, _ = movements[index]
        errors += [abs(span.start - start)] if index > 0 else []
        errors += [abs(span.end - end)] if index < len(movements) - 1 else []
    return correct, errors


def _iou(movement: Movement, span: Span) -> float:
    inside = min(movement.end, span.end) - max(movement.start, span.start)
    return max(0.0, inside) / (max(movement.end, span.end) - min(movement.start, span.start))


def accuracy(folder: Path, predictor: Predictor, seeds: range) -> list[dict[str, Any]]:
    """Return a row for each hop and threshold."""
    scans: list[tuple[float, list[Movement], Scan]] = []
    for seed in seeds:
        path = folder / f"{seed}.mp4"
        movements = write_movements(path, seed)
        for hop in HOPS:
            scans.append((hop, movements, scan(path, predictor, window_seconds=2.0, hop_seconds=hop)))
        print(f"video {seed}: {len(movements)} movements", file=sys.stderr)
    rows = []
    for hop, threshold in product(HOPS, THRESHOLDS):
        found = correct = total = 0
        errors: list[float] = []
        for _, movements, result in (each for each in scans if each[0] == hop):
            spans = result.spans(threshold=threshold, min_seconds=hop)
            hits, misses = match(movements, spans)
            found, correct, total = found + len(spans), correct + hits, total + len(movements)
            errors += misses
        rows.append(
            {
                "hop_seconds": hop,
                "threshold": threshold,
                "movements": total,
                "segments": found,
                "f1": 2 * correct / (found + total),
                "edge_error_mean": float(np.mean(errors)),
                "edge_error_median": float(np.median(errors)),
                "edge_error_90_percent": float(np.quantile(errors, 0.9)),
            }
        )
    return rows


def repeat(path: Path, count: int, out: Path) -> None:
    """Write a video `count` times into one file, without encoding it again."""
    listing = out.with_suffix(".txt")
    listing.write_text(f"file '{path}'\n" * count, encoding="utf-8")
    command = ["ffmpeg", "-v", "error", "-f", "concat", "-safe", "0", "-i", listing, "-c", "copy", "-y", out]
    subprocess.run(list(map(str, command)), check=True)


def long_video(path: str) -> dict[str, float]:
    """Return memory and speed of a timeline, and the speed of decoding and of the model alone."""
    predictor = Predictor.from_pretrained("camera-motion", device="cpu", protocol="fast-1x1")
    results: list[Scan] = []
    start = time.perf_counter()
    peak, _ = peak_and_added_mib(
        lambda: results.append(scan(path, predictor, window_seconds=2.0, hop_seconds=1.0))
    )
    seconds = time.perf_counter() - start
    (result,) = results
    start = time.perf_counter()
    with VideoStream(path, ahead_seconds=seconds_ahead(2.0, 1.0)) as stream:
        windows = sliding_windows(
            stream, predictor.clip, predictor.views, window_seconds=2.0, hop_seconds=1.0
        )
        window = next(windows)
        for _ in windows:
            pass
    decoding = time.perf_counter() - start
    start = time.perf_counter()
    for _ in range(100):
        score_window(predictor, window)
    model = (time.perf_counter() - start) / 100 * len(result.windows)
    return {
        "video_seconds": result.duration_seconds,
        "windows": len(result.windows),
        "peak_mib": peak,
        "seconds": seconds,
        "seconds_decoding_alone": decoding,
        "seconds_model_alone": model,
        "times_real_time": result.duration_seconds / seconds,
        "fraction_of_the_slower_alone": max(decoding, model) / seconds,
    }


def main() -> None:
    """Measure and print the results; write them to a file if asked to."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--output", type=result_file, help="JSON file to write")
    parser.add_argument(
        "--choose", action="store_true", help="use the seeds on which the defaults were chosen"
    )
    parser.add_argument(
        "--minutes", type=int, nargs="*", default=[30, 120], help="lengths of the long videos, or none"
    )
    parser.add_argument("--long", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.long:
        print(json.dumps(long_video(arguments.long)))
        return
    predictor = Predictor.from_pretrained("camera-motion", device="cpu", protocol="fast-1x1")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        seeds = CHOSEN_ON if arguments.choose else MEASURED_ON
        report: dict[str, Any] = {"circumstances": circumstances(), "token_seconds": 0.5}
        report["accuracy"] = accuracy(folder, predictor, seeds)
        report["long"] = []
        for minutes in arguments.minutes:
            repeat(folder / f"{seeds[0]}.mp4", minutes, folder / f"{minutes}.mp4")
            report["long"].append(in_fresh_process(__file__, "--long", str(folder / f"{minutes}.mp4")))
    text = json.dumps(report, indent=1)
    print(text)
    if arguments.output:
        arguments.output.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
