"""Error of validation accuracy if training and validation share places: five actions, five places.

    python benchmarks/places.py

A synthetic figure performs one of five actions. Each action is recorded in two sessions per place: one crop
of the photograph of the place, one figure, one light. A model can recognize sessions by appearance, which
does not help in another place. Each place is held out in turn; two models are fine-tuned on the videos of
the other four with the recipe of `videoswin train finetune`, one validated on a random split, the other on
a group, which is the place. Each row compares the validation accuracy of the best checkpoint with the
accuracy of the same checkpoint in the place held out.
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from numpy.random import Generator
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parents[1]))
from benchmarks.experiments import Results, Row, parsed
from videoswin import Checkpoint, Predictor, ViewPlan
from videoswin.camera_motion.clips import write_h264
from videoswin.camera_motion.scenes import downscale, load_photo, random_crop, recolor
from videoswin.data.manifest import Manifest, Sample, write_manifest
from videoswin.evaluation.evaluate import evaluate
from videoswin.recipes import build_recipe
from videoswin.training.loop import train

ACTIONS: Final = ("circle", "circle back", "nod", "shake", "still")
PLACES: Final = {
    "yard": "brick.png",
    "meadow": "grass.png",
    "garage": "motorcycle_left.png",
    "cafe": "coffee.png",
    "studio": "astronaut.png",
}
"""Name of each place -> its photograph in scikit-image."""
SESSIONS: Final = 2
"""Sessions per action and place."""
FILMS_PER_SESSION: Final = 8
EPOCHS: Final = 18
SPLITS: Final = ("random", "groups")
SIZE: Final = 72
"""Height and width of the videos in pixels."""
FPS, FRAMES = 8, 16


def main() -> None:
    arguments = parsed(__doc__, "places")
    places = list(PLACES)[:1] if arguments.quick else list(PLACES)
    count, epochs = (2, 1) if arguments.quick else (FILMS_PER_SESSION, EPOCHS)
    settings = {"sessions": SESSIONS, "films_per_session": count, "epochs": epochs, "places": list(PLACES)}
    results = Results(arguments.output, settings)
    films = arguments.runs / "films"
    if not films.exists():
        write_films(films, count)
    for seed, held_out in enumerate(places):
        for split in SPLITS:
            if not results.has(split, seed):
                row = one_run(films, arguments.runs / f"{split}, {held_out}", held_out, split, epochs, seed)
                results.add(row)
    results.report["gap"] = gaps(results.runs)
    results.path.write_text(json.dumps(results.report, indent=1) + "\n", encoding="utf-8")
    for split, figures in results.report["gap"].items():
        print(split, json.dumps(figures))


def one_run(films: Path, folder: Path, held_out: str, split: str, epochs: int, seed: int) -> Row:
    """Fine-tune without the videos of one place; return validation accuracy and accuracy in that place."""
    listed = listing(films, [place for place in PLACES if place != held_out], groups=split == "groups")
    folder.mkdir(parents=True, exist_ok=True)
    write_manifest(listed, folder / "films.csv")
    settings: dict[str, Any] = {
        "schedule.epochs": epochs,
        "schedule.warmup_epochs": epochs / 10,
        "schedule.val_every": max(1, epochs // 3),
        "schedule.patience": None,
        "data.batch_size": 16,
        "data.num_repeats": 1,
        "optimizer.lr": 1e-3,
        "data.num_workers": 0,
        "run.num_threads": 1,
        "run.device": "cpu",
        "run.precision": "fp32",
        "run.seed": seed,
    }
    recipe = build_recipe(
        "finetune", data=str(folder / "films.csv"), init_from="camera-motion", settings=settings
    )
    best = train(recipe, folder / "run")
    if best is None:
        raise SystemExit("stopped; run the same command again to resume")
    rows = [json.loads(line) for line in (folder / "run" / "metrics.jsonl").read_text().splitlines()]
    promised = max(row["val_score"] for row in rows if "val_score" in row)
    checkpoint = Checkpoint.load(str(best))
    predictor = Predictor(checkpoint, device="cpu")
    predictor.views = ViewPlan(clips=1, crops=1)  # as in validation
    report = evaluate(predictor, listing(films, [held_out], groups=False), workers=0)
    shutil.rmtree(folder)
    return {
        "variant": split,
        "seed": seed,
        "held_out_place": held_out,
        "validation": round(promised, 4),
        "accuracy": round(report.top1, 4),
        "films": report.num_videos,
    }


def gaps(runs: list[Row]) -> dict[str, dict[str, float]]:
    """Return the mean validation and held-out accuracy of each split, and their gap, in percentage points."""
    found = {}
    for split in dict.fromkeys(row["variant"] for row in runs):
        rows = [row for row in runs if row["variant"] == split]
        validation = 100 * sum(row["validation"] for row in rows) / len(rows)
        truth = 100 * sum(row["accuracy"] for row in rows) / len(rows)
        gap = round(validation - truth, 1)
        found[split] = {"validation": round(validation, 1), "held_out": round(truth, 1), "gap": gap}
    return found


def listing(films: Path, places: list[str], *, groups: bool) -> Manifest:
    """Return a manifest of the videos of some places; with `groups`, the place is the group."""
    samples = tuple(
        Sample(path=str(path.resolve()), labels=(label,), group=place if groups else None)
        for label, action in enumerate(ACTIONS)
        for place in places
        for path in sorted((films / action / place).glob("*.mp4"))
    )
    return Manifest(source=str(films), classes=ACTIONS, samples=samples)


def write_films(folder: Path, count: int) -> None:
    """Write `<folder>/<action>/<place>/<session>-<number>.mp4`; the folder only appears when complete."""
    unfinished = folder.with_name("unfinished films")
    for place_number, (place, photo) in enumerate(PLACES.items()):
        image = downscale(load_photo(photo), 2)
        for label, action in enumerate(ACTIONS):
            target = unfinished / action / place
            target.mkdir(parents=True, exist_ok=True)
            for session in range(SESSIONS):
                rng = np.random.default_rng((place_number, label, session))
                background = random_crop(rng, recolor(rng, image), SIZE + 8)
                figure = torch.from_numpy(rng.uniform(0, 1, (3, 1, 1))).float()
                home = rng.uniform(0.35, 0.65, 2) * SIZE
                for number in range(count):
                    frames_thwc = film(rng, action, background, figure, home)
                    path = target / f"{session}-{number:02}.mp4"
                    write_h264(path, frames_thwc, fps=FPS, crf=23, preset="veryfast")
    unfinished.rename(folder)


def film(rng: Generator, action: str, background: Tensor, figure: Tensor, home: np.ndarray) -> Tensor:
    """Render a figure moving in front of a background, with a slightly shaking camera: uint8 (T, H, W, 3)."""
    init_from, size = rng.uniform(0, 2 * np.pi), rng.uniform(12, 18)
    angle = init_from + np.arange(FRAMES) / FPS * 2 * np.pi * rng.uniform(0.5, 0.8)
    still = np.zeros(FRAMES)
    x, y = {
        "circle": (np.cos(angle), np.sin(angle)),
        "circle back": (np.cos(angle), -np.sin(angle)),
        "nod": (still, np.sin(angle)),
        "shake": (np.sin(angle), still),
        "still": (still, still),
    }[action]
    place = home + rng.normal(0, 3, 2)
    shaken = rng.integers(0, 9, 2) + np.cumsum(rng.normal(0, 0.2, (FRAMES, 2)), axis=0)
    top_left = shaken.round().astype(int).clip(0, 8)
    line = torch.arange(SIZE)
    frames = []
    for frame in range(FRAMES):
        top, left = top_left[frame]
        picture = background[:, top : top + SIZE, left : left + SIZE].clone()
        center_y, center_x = place[1] + size * y[frame], place[0] + size * x[frame]
        away = ((line[:, None] - center_y) / 14).square() + ((line[None, :] - center_x) / 9).square()
        frames.append(torch.lerp(picture, figure.expand_as(picture), (2 * (1 - away)).clamp(0, 1)))
    film_tchw = torch.stack(frames) * float(rng.uniform(0.85, 1.15))
    film_tchw = film_tchw + 0.03 * torch.from_numpy(rng.standard_normal(film_tchw.shape)).float()
    assert film_tchw.shape == (FRAMES, 3, SIZE, SIZE)
    return (255 * film_tchw.clamp(0, 1)).round().to(torch.uint8).permute(0, 2, 3, 1)


if __name__ == "__main__":
    main()
