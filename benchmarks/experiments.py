"""Run small training experiments in sequence; each result is saved at once and never computed twice."""

from __future__ import annotations

import json
import shutil
import statistics
import tempfile
from argparse import ArgumentParser, Namespace, RawDescriptionHelpFormatter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from benchmarks.measure import circumstances
from benchmarks.moving_pictures import CLIP, CLIPS_PER_ITEM, LABELS, DriftingDots
from videoswin import Checkpoint, VideoSwin, VideoSwinConfig, ViewPlan
from videoswin.data.dataset import Draw
from videoswin.model.swin import initialize_from_scratch
from videoswin.training.loop import train
from videoswin.training.recipe import Augment, Model, Optimizer, Recipe, Run, Schedule, SyntheticData
from videoswin.video.views import normalize

HELD_OUT_SEED = 2**20
"""No training run uses this seed, so these clips are unseen."""
HELD_OUT_ITEMS = 32
"""1,024 clips."""
Row = dict[str, Any]


class Results:
    """The JSON file of an experiment: settings, environment, and a row for each finished run."""

    def __init__(self, path: Path, settings: Row) -> None:
        """Load the file if it exists; raise SystemExit if it was written with other settings."""
        self.path = path
        self.report: Row = {"settings": settings, "circumstances": circumstances(), "runs": []}
        if path.exists():
            self.report = json.loads(path.read_text(encoding="utf-8"))
            if self.report["settings"] != json.loads(json.dumps(settings)):
                raise SystemExit(f"{path} was written with other settings; remove it to start again")

    @property
    def runs(self) -> list[Row]:
        """The finished runs."""
        runs: list[Row] = self.report["runs"]
        return runs

    def has(self, variant: str, seed: int) -> bool:
        """Return whether the run is finished."""
        return any((row["variant"], row["seed"]) == (variant, seed) for row in self.runs)

    def add(self, row: Row) -> None:
        """Add a finished run and write the file."""
        self.runs.append(row)
        self.report["summary"] = summary(self.runs)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.path.write_text(json.dumps(self.report, indent=1) + "\n", encoding="utf-8")
        print(json.dumps({name: value for name, value in row.items() if name != "curve"}), flush=True)

    def print_summary(self) -> None:
        """Print one line for each variant."""
        width = max(map(len, self.report["summary"]))
        for variant, figures in self.report["summary"].items():
            spread = f"({figures['lowest']:.1%} to {figures['highest']:.1%}, {figures['runs']} runs)"
            print(f"{variant:<{width}}  {figures['mean']:>6.1%}  {spread}")


def summary(runs: list[Row]) -> dict[str, Row]:
    """Return the mean and spread of the accuracy of each variant over its seeds."""
    by_variant: dict[str, list[float]] = {}
    for row in runs:
        by_variant.setdefault(row["variant"], []).append(row["accuracy"])
    return {
        variant: {
            "runs": len(scores),
            "mean": round(statistics.mean(scores), 4),
            "standard_deviation": round(statistics.stdev(scores), 4) if len(scores) > 1 else None,
            "lowest": min(scores),
            "highest": max(scores),
        }
        for variant, scores in by_variant.items()
    }


def parsed(description: str | None, name: str) -> Namespace:
    """Parse the options of an experiment: `quick`, `output` (a JSON file) and `runs` (a working folder)."""
    parser = ArgumentParser(description=description, formatter_class=RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="reduced run of less than a minute, as a check")
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results", f"{name}.json"))
    parser.add_argument("--runs", type=Path, default=Path("runs", name), help="folder of unfinished runs")
    arguments = parser.parse_args()
    if arguments.quick:  # a quick run must not overwrite the results
        arguments.runs = Path(tempfile.mkdtemp())
        arguments.output = arguments.runs / f"{name}.json"
        print("results in", arguments.output)
    torch.set_num_threads(1)
    return arguments


def dots_recipe(
    name: str,
    clips: Callable[..., DriftingDots],
    config: VideoSwinConfig,
    initialize: Callable[[VideoSwin], None],
    *,
    seed: int,
) -> Recipe:
    """Return the recipe that trains a small model on the drifting dots of `clips`, on one CPU thread."""
    return Recipe(
        name=name,
        data=SyntheticData(
            clips=lambda seed: clips(seed=seed),
            description="generated: drifting dots",
            labels=LABELS,
            clip=CLIP,
            views=ViewPlan(clips=1, crops=1),
            batch_size=CLIPS_PER_ITEM,
            num_workers=0,
        ),
        model=Model(init_from=None, config=config, initialize=initialize, drop_path=0.0, dropout=0.0),
        augment=Augment(scale=(1.0, 1.0), ratio=(1.0, 1.0), hflip=0.0),
        optimizer=Optimizer(lr=2e-3, backbone_lr_scale=1.0, weight_decay=0.02, max_grad_norm=1.0),
        schedule=Schedule(epochs=1, warmup_epochs=0.1, lr_update="step"),
        run=Run(seed=seed, precision="fp32", device="cpu", num_threads=1, log_every=50, license="Apache-2.0"),
    )


def initialize_with_position(model: VideoSwin) -> None:
    """Initialize the model with position bias tables as large as trained ones (std 3).

    Heads then attend to different positions from the start. With tables near zero, attention at first does
    not depend on position, and the order of movements takes far longer to learn; ablations.py has a row
    for that.
    """
    initialize_from_scratch(model)
    for name, parameter in model.named_parameters():
        if name.endswith("bias_table"):
            torch.nn.init.normal_(parameter, std=3.0)


def trained(recipe: Recipe, folder: Path) -> tuple[Checkpoint, list[Row]]:
    """Train and return the last checkpoint and the metrics; an interrupted run is resumed.

    The folder is removed at the end, since only the results are kept.
    """
    if train(recipe, folder) is None:
        raise SystemExit("stopped; run the same command again to resume")
    checkpoint = Checkpoint.load(str(folder / "last.safetensors"))
    lines = (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    shutil.rmtree(folder)
    return checkpoint, [json.loads(line) for line in lines]


@torch.inference_mode()
def held_out_accuracy(model: VideoSwin, clips: DriftingDots, items: int = HELD_OUT_ITEMS) -> float:
    """Return the accuracy of the model on the clips of the first `items` items."""
    right = 0
    for index in range(items):
        item = clips[Draw(0, index)]
        right += int((model(normalize(item.clips, CLIP.normalization)).argmax(1) == item.targets).sum())
    return right / (items * CLIPS_PER_ITEM)
