"""Fine-tuning of the bundled model on 20 videos per class, compared with training from scratch.

    python benchmarks/finetune.py

The recipe is that of `videoswin train finetune` with fewer epochs and without early stopping. Runs from
scratch differ only in the initial weights: videos, augmentation, batches, steps and learning rates are
equal (for a model of this size, the learning rates suit both). Training videos show the photographs that
the bundled model was trained on; test videos show three that it has not seen. Accuracies are those after
the last epoch, with one view per video: the best epoch is not selected.

There are two sets of classes: combinations of movements that the bundled model knows, and classes that differ
only in the order of these movements, on which it was not trained.
"""

from __future__ import annotations

import statistics
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))
from benchmarks.experiments import Results, Row, parsed, trained
from benchmarks.gestures import COMPOUND, TOLD_BY_ORDER, Gestures, write_gestures
from videoswin import NANO
from videoswin._errors import require
from videoswin.camera_motion.scenes import TEST_PHOTOS, TRAIN_PHOTOS
from videoswin.model.swin import initialize_from_scratch
from videoswin.recipes import build_recipe
from videoswin.training.recipe import Recipe

TASKS = {"compound": (COMPOUND, 15), "told by order": (TOLD_BY_ORDER, 30)}
"""Gestures and epochs."""
SEEDS = (0, 1, 2)
FILMS_PER_CLASS = {"train": 20, "val": 40}
"""The validation videos serve as the test set, since nothing is selected by validation accuracy."""
TUNED, FROM_NOTHING = "from camera-motion", "from nothing"


def main() -> None:
    arguments = parsed(__doc__, "finetune")
    seeds = SEEDS[:1] if arguments.quick else SEEDS
    counts = {"train": 4, "val": 2} if arguments.quick else FILMS_PER_CLASS
    plans = {task: (gestures, 1 if arguments.quick else most) for task, (gestures, most) in TASKS.items()}
    gestures_and_epochs = {task: [gestures.names, epochs] for task, (gestures, epochs) in plans.items()}
    results = Results(arguments.output, {"films_per_class": counts, "tasks": gestures_and_epochs})
    for task, (gestures, epochs) in plans.items():
        films = arguments.runs / task / "films"
        if not films.exists():
            write_films(films, gestures, counts)
        for seed in seeds:
            tuned = tuning_recipe(films, epochs, seed)
            for init_from, recipe in ((TUNED, tuned), (FROM_NOTHING, from_nothing(tuned))):
                if not results.has(variant := f"{task}, {init_from}", seed):
                    _, metrics = trained(recipe, arguments.runs / task / f"{init_from}, seed {seed}")
                    curve = [row["val_score"] for row in metrics if "val_score" in row]
                    results.add({"variant": variant, "seed": seed, "accuracy": curve[-1], "curve": curve})
    results.print_summary()
    draw_curves(arguments.output.with_suffix(".png"), results.runs)


def write_films(folder: Path, gestures: Gestures, counts: dict[str, int]) -> None:
    """Write training and test videos of different photographs; the folder only appears when complete."""
    unfinished = folder.with_name("unfinished films")
    for seed, (split, photos) in enumerate({"train": TRAIN_PHOTOS, "val": TEST_PHOTOS}.items()):
        write_gestures(unfinished / split, gestures, photos, per_class=counts[split], seed=seed)
    unfinished.rename(folder)


def tuning_recipe(films: Path, epochs: int, seed: int) -> Recipe:
    """Return the recipe of `videoswin train finetune`, shortened, on one thread, without early stopping."""
    settings: dict[str, Any] = {
        "schedule.epochs": epochs,
        "schedule.warmup_epochs": epochs / 10,
        "schedule.patience": None,
        "schedule.val_every": 1,
        "data.num_workers": 0,
        # Set explicitly, because the defaults depend on the speed of the machine.
        "data.batch_size": 64,
        "data.num_repeats": 4,
        "run.num_threads": 1,
        "run.device": "cpu",
        "run.seed": seed,
    }
    return build_recipe("finetune", data=str(films), init_from="camera-motion", settings=settings)


def from_nothing(recipe: Recipe) -> Recipe:
    """Return the same recipe with random initial weights."""
    model = replace(recipe.model, init_from=None, config=NANO, initialize=initialize_from_scratch)
    return replace(recipe, model=model)


def draw_curves(path: Path, runs: list[Row]) -> None:
    """Plot the accuracy after each epoch: mean and range over the runs of each variant."""
    figure = require("matplotlib.figure", extra="train").Figure(figsize=(9, 3.8), layout="constrained")
    for place, (task, (gestures, _)) in enumerate(TASKS.items(), 1):
        axes = figure.add_subplot(1, len(TASKS), place)
        for init_from, color in ((TUNED, "#0072B2"), (FROM_NOTHING, "#D55E00")):
            curves = [row["curve"] for row in runs if row["variant"] == f"{task}, {init_from}"]
            by_epoch = list(zip(*curves, strict=True))
            epochs, lowest, highest = range(1, len(by_epoch) + 1), map(min, by_epoch), map(max, by_epoch)
            axes.fill_between(epochs, list(lowest), list(highest), color=color, alpha=0.2)
            axes.plot(epochs, list(map(statistics.mean, by_epoch)), color=color, label=init_from)
        axes.axhline(1 / len(gestures.names), color="gray", linestyle=":", label="chance")
        axes.set(title=f"gestures: {task}", xlabel="epoch", ylabel="accuracy on unseen videos", ylim=(0, 1))
        axes.legend(frameon=False, loc="upper left")
    figure.savefig(path, dpi=100)


if __name__ == "__main__":
    main()
