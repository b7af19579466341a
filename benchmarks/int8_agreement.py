"""Top-1 agreement of the bundled model in int8 and float32.

    python benchmarks/int8_agreement.py --output benchmarks/results/int8_agreement.json

Scales are calibrated on the first half of every second real video. Agreement is measured on clips from the
other videos and from all of the calibration videos, cropped as the model's views are, and on synthetic videos
of unseen photographs (benchmarks/camera_motion.py), which have labels.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parents[1]))
from benchmarks.camera_motion import REAL, SIZES, film_of, test_photos
from benchmarks.measure import circumstances, result_file
from videoswin import Checkpoint, Predictor
from videoswin.camera_motion.camera import LABELS
from videoswin.camera_motion.clips import write_h264
from videoswin.inference.export import export_model
from videoswin.video.views import load_views

MODEL = "camera-motion"
FILMS = 45
CLIPS_PER_VIDEO = 150


def real_views(predictor: Predictor, folder: str, names: tuple[str, ...]) -> Iterator[Tensor]:
    """Yield the views of each real video, uint8 (V, 3, T, S, S), with evenly spaced clips."""
    for name in names:
        views = predictor.views.replace(clips=CLIPS_PER_VIDEO)
        yield load_views(Path(folder, name), predictor.clip, views).pixels


def film_views(predictor: Predictor) -> Iterator[Tensor]:
    """Yield the views of each synthetic video, uint8 (V, 3, T, S, S)."""
    for index in range(FILMS):
        rng = np.random.default_rng((2026, index, 0))
        size = SIZES[index // len(LABELS) % len(SIZES)]
        film = film_of(rng, test_photos(), index % len(LABELS), size)
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "film.mp4")
            write_h264(path, film, fps=30, crf=int(rng.integers(18, 33)), preset="veryfast")
            yield predictor.load(path).pixels


def agreement(ours: Predictor, theirs: Predictor, source: str, each: Iterator[Tensor]) -> dict[str, Any]:
    """Return the top-1 agreement of two predictors over single views."""
    scores = [(ours.backend(views).softmax(-1), theirs.backend(views).softmax(-1)) for views in each]
    int8, exact = (torch.cat(part) for part in zip(*scores, strict=True))
    return {
        "clips_from": source,
        "videos": len(scores),
        "clips": len(int8),
        "top1_agreement": round(float((int8.argmax(1) == exact.argmax(1)).float().mean()), 5),
        "largest_probability_difference": round(float((int8 - exact).abs().max()), 4),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--clips", default="../shared/clips", help="folder of real videos")
    parser.add_argument("--output", type=result_file, help="JSON file for the results")
    arguments = parser.parse_args()
    checkpoint = Checkpoint.load(MODEL)
    theirs = Predictor(checkpoint, device="cpu")
    with tempfile.TemporaryDirectory() as folder:
        videos = [str(Path(arguments.clips, name)) for name in REAL[::2]]
        export_model(checkpoint, Path(folder, "int8.xml"), precision="int8", videos=videos, say=print)
        ours = Predictor.from_pretrained(Path(folder, "int8.xml"))
        report: dict[str, Any] = {
            "circumstances": circumstances(),
            "model": MODEL,
            "scales_chosen_on": list(REAL[::2]),
            "rows": [
                agreement(
                    ours,
                    theirs,
                    f"real: {', '.join(REAL[1::2])}",
                    real_views(theirs, arguments.clips, REAL[1::2]),
                ),
                agreement(
                    ours,
                    theirs,
                    f"real: {', '.join(REAL[::2])}",
                    real_views(theirs, arguments.clips, REAL[::2]),
                ),
                agreement(ours, theirs, "films of unseen photographs", film_views(theirs)),
            ],
        }
    print(json.dumps(report["rows"], indent=1))
    if arguments.output:
        arguments.output.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
