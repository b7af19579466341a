"""Accuracy of the bundled model on files: two seconds of H.264 at 30 fps, written, read and predicted.

    python benchmarks/camera_motion.py --clips ../shared/clips --out benchmarks/results/camera-motion.json

The same number of clips of every movement is rendered from unseen photographs and from single frames of real
videos. Each clip is also played backwards, where the opposite movement is correct. The real videos themselves
have no labels; their predictions are recorded.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import tempfile
from concurrent.futures import ProcessPoolExecutor
from datetime import date
from functools import cache, partial
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch
from numpy.random import Generator
from torch import Tensor

from videoswin import Checkpoint, Predictor, load_views, open_video
from videoswin.camera_motion.camera import (
    LABELS,
    MotionRange,
    add_occluder,
    camera_path,
    reversed_label,
    scene_from_view,
    to_pixels,
    vary_exposure,
    view_from_base,
    warp,
)
from videoswin.camera_motion.clips import write_h264
from videoswin.camera_motion.scenes import TEST_PHOTOS, load_photo, random_crop
from videoswin.weights.catalog import BUNDLED

FPS = 30
SECONDS = 2.0
SIZES = ((192, 256), (240, 320), (256, 340), (360, 640), (256, 256), (240, 426))
"""Height and width of the files, one after the other."""
PRESET = "veryfast"
MOTION = MotionRange(slowest=0.06, fastest=0.45, shake=0.01, easing=0.5)
REAL = ("demo.mp4", "test.mp4", "test.avi", "flipping_a_pancake.mkv", "part_0.mp4")
"""Camera recordings only. In striped test patterns, movement along the stripes is not visible."""
FRAMES_PER_REAL = 8
SHOWN = ("demo.mp4", "test.mp4", "test.avi", "flipping_a_pancake.mkv", "part_0.mp4")
"""Real videos whose camera movement a person can recognize."""


def film_of(
    rng: Generator,
    photos: list[Tensor],
    label: int,
    size: tuple[int, int],
    *,
    seconds: float = SECONDS,
    motion: MotionRange = MOTION,
) -> Tensor:
    """Render a video of one of the photographs (3, H, W) with movement `label`: uint8 (T, *size, 3)."""
    times = np.arange(round(seconds * FPS)) / FPS
    poses = camera_path(rng, label, times, seconds, motion)
    aspect = size[1] / size[0]
    in_world = view_from_base(poses, aspect, width=aspect)
    on_screen = view_from_base(np.zeros_like(poses), aspect, width=aspect)
    photo = photos[rng.integers(len(photos))]
    scene = random_crop(rng, photo, min(photo.shape[1:]))
    height = 2 * rng.uniform(0.35, 0.65)  # of the view, in units where the scene has height 2
    scene_from_base = scene_from_view(rng, height) @ in_world
    film = warp(scene, scene_from_base, size, outside="reflection")
    if rng.random() < 0.5:
        patch = random_crop(rng, photos[rng.integers(len(photos))], 128)
        film = add_occluder(rng, film, times, patch, in_world=in_world, on_screen=on_screen)
    grain = torch.randn(3, 700, 700, generator=torch.Generator().manual_seed(int(rng.integers(2**31))))
    return to_pixels(vary_exposure(rng, film, grain, 0.6))


def measured(model: str, source: str, clips: str, index: int) -> dict[str, int]:
    """Return the label of clip `index` from `source`, and its predictions played forward and backward."""
    torch.set_num_threads(1)
    rng = np.random.default_rng((2026, index, source == "real"))
    label, size = index % len(LABELS), SIZES[index // len(LABELS) % len(SIZES)]
    photos = test_photos() if source == "photos" else real_frames(clips)
    film_thwc, crf = film_of(rng, photos, label, size), int(rng.integers(18, 33))
    forth, back = (answer(model, film, crf) for film in (film_thwc, film_thwc.flip(0)))
    return {"label": label, "forth": forth, "back": back}


def answer(model: str, film_thwc: Tensor, crf: int) -> int:
    """Write the video to a file and return the predicted class."""
    predictor = predictor_of(model)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "film.mp4")
        write_h264(path, film_thwc, fps=FPS, crf=crf, preset=PRESET)
        return int(predictor.score(load_views(path, predictor.clip, predictor.views)).argmax())


def model_file(model: str) -> Path:
    """Return the file of a bundled model, or the given path."""
    bundled = BUNDLED / f"{model}.safetensors"
    return bundled if bundled.is_file() else Path(model)


@cache
def predictor_of(model: str) -> Predictor:
    return Predictor(Checkpoint.load(model), device="cpu")


@cache
def test_photos() -> list[Tensor]:
    return [load_photo(name) for name in TEST_PHOTOS]


@cache
def real_frames(clips: str) -> list[Tensor]:
    """Return single frames (3, H, W) in 0..1, evenly spaced in each real video."""
    frames = []
    for name in REAL:
        with open_video(Path(clips, name)) as reader:
            wanted = np.linspace(0, reader.num_frames - 1, FRAMES_PER_REAL).astype(int).tolist()
            frames += [frame.permute(2, 0, 1) / 255.0 for frame in reader.read(wanted)]
    return frames


def report(rows: list[dict[str, int]]) -> dict[str, object]:
    """Return accuracy, accuracy in reverse, and the confusion matrix (rows: labels, columns: predictions)."""
    confusion = [[0] * len(LABELS) for _ in LABELS]
    for row in rows:
        confusion[row["label"]][row["forth"]] += 1
    count = len(rows)
    return {
        "clips": count,
        "accuracy": sum(row["forth"] == row["label"] for row in rows) / count,
        "accuracy_backwards": sum(row["back"] == reversed_label(row["label"]) for row in rows) / count,
        "answer_reversed": sum(row["back"] == reversed_label(row["forth"]) for row in rows) / count,
        "per_class": {name: confusion[i][i] / max(1, sum(confusion[i])) for i, name in enumerate(LABELS)},
        "confusion": confusion,
    }


def said_of(model: str, path: Path) -> dict[str, object]:
    """Return [label, probability] for a real video as a whole and for every two seconds of it."""
    predictor = predictor_of(model)
    whole = predictor(path)
    label, probability = whole.top(1)[0]
    parts = predictor.views.replace(clips=max(1, round(whole.duration_seconds / SECONDS)))
    by_part = load_views(path, predictor.clip, parts).pixels.split(parts.crops)
    scores = [predictor.score(views) for views in by_part]
    return {
        "seconds": round(whole.duration_seconds, 1),
        "whole": (label, round(probability, 2)),
        "parts": [(LABELS[int(score.argmax())], round(float(score.max()), 2)) for score in scores],
    }


def machine() -> str:
    """Return the name of the processor and the number of cores."""
    names = [
        line.split(": ")[1] for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line
    ]
    return f"{len(names)} cores of {names[0]}"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="camera-motion", help="bundled name or checkpoint file")
    parser.add_argument("--clips", default="../shared/clips", help="folder of real videos")
    parser.add_argument("--count", type=int, default=540, help="clips per movement and source")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--out", type=Path, help="JSON file for the results")
    arguments = parser.parse_args()
    result: dict[str, object] = {
        "model": arguments.model,
        "date": date.today().isoformat(),
        "machine": machine(),
        "sha256": hashlib.sha256(model_file(arguments.model).read_bytes()).hexdigest(),
    }
    with ProcessPoolExecutor(arguments.workers, mp_context=get_context("spawn")) as pool:
        for source in ("photos", "real"):
            ask = partial(measured, arguments.model, source, arguments.clips)
            found = report(list(pool.map(ask, range(arguments.count), chunksize=9)))
            result[source] = found
            print(source, {name: found[name] for name in found if name != "confusion"}, flush=True)
    result["as_they_are"] = {name: said_of(arguments.model, Path(arguments.clips, name)) for name in SHOWN}
    print(json.dumps(result["as_they_are"], indent=1))
    if arguments.out:
        arguments.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
