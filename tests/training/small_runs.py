"""Training runs that take a second: striped noise as data, and a model with a few thousand parameters."""

import dataclasses
import os
import signal
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import Dataset

from videoswin.data.dataset import Draw, Item
from videoswin.evaluation import plots
from videoswin.model.config import VideoSwinConfig
from videoswin.model.swin import initialize_from_scratch
from videoswin.training.loop import train
from videoswin.training.recipe import Augment, Model, Optimizer, Recipe, Run, Schedule, SyntheticData
from videoswin.video.spec import PER_CLIP, ClipSpec, ViewPlan

CLIP = ClipSpec(frames=2, stride=1, size=8, short_side=8, normalization=PER_CLIP)
LABELS = ("lying", "standing")


class Stripes(Dataset[Item]):
    """Clips with horizontal (`lying`, 0) or vertical (`standing`, 1) stripes, one of each in an item."""

    def __init__(self, seed: int, length: int = 160) -> None:
        self.seed, self.length = seed, length

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, draw: Draw) -> Item:
        epoch, index, *_ = draw
        random = torch.Generator().manual_seed(1_000_000 * self.seed + 1000 * epoch + index)
        clip = torch.randint(0, 100, (3, 2, 8, 8), generator=random, dtype=torch.uint8)
        clip[..., ::2, :] += 100
        return Item(torch.stack([clip, clip.transpose(-1, -2)]), torch.tensor([0, 1]))


def stripes(**changes: Any) -> Recipe:
    """Return a recipe of 40 steps in two epochs; `part__field=value` changes a field, as in `run__seed=1`."""
    config = VideoSwinConfig(embed_dim=8, depths=(2,), num_heads=(1,), window=(1, 2, 2))
    recipe = Recipe(
        name="stripes",
        data=SyntheticData(
            clips=Stripes,
            description="noise with stripes",
            labels=LABELS,
            clip=CLIP,
            views=ViewPlan(clips=1, crops=1),
            batch_size=16,
            num_workers=0,
        ),
        model=Model(
            init_from=None, config=config, initialize=initialize_from_scratch, drop_path=0.1, dropout=0.1
        ),
        augment=Augment(),
        optimizer=Optimizer(
            lr=0.01, backbone_lr_scale=1.0, weight_decay=0.01, max_grad_norm=1.0, ema_decay=0.9
        ),
        schedule=Schedule(epochs=2, warmup_epochs=0.25, lr_update="step"),
        run=Run(
            precision="fp32", device="cpu", num_threads=1, log_every=5, save_every=20, license="Apache-2.0"
        ),
    )
    return changed(recipe, changes)


def changed(recipe: Recipe, changes: dict[str, Any]) -> Recipe:
    """Return the recipe with each `part__field` set to its value."""
    for name, value in changes.items():
        part, field = name.split("__")
        recipe = dataclasses.replace(
            recipe, **{part: dataclasses.replace(getattr(recipe, part), **{field: value})}
        )
    return recipe


class Harmful(Stripes):
    """Stripes whose data workers kill themselves at the first item of the second epoch."""

    def __getitem__(self, draw: Draw) -> Item:
        if draw.epoch == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().__getitem__(draw)


def draw_nothing(set_attribute: Callable[[object, str, object], None]) -> None:
    """Write empty files instead of pictures; `set_attribute` is `setattr` or that of monkeypatch."""
    for function in ("draw_curves", "draw_contact_sheet"):
        set_attribute(plots, function, lambda path, *pictures, **options: path.touch())


def in_child(work: Callable[[], object], environment: dict[str, str] | None = None) -> int:
    """Run `work` in a forked process and return its id; its exit code is 1 after an exception, else 0.

    Forking saves the import of torch, and is safe as long as this process has not started threads.
    """
    sys.stdout.flush()
    if pid := os.fork():
        return pid
    try:
        os.environ.update(environment or {})
        work()
        code = 0
    except BaseException:
        traceback.print_exc()
        code = 1
    os._exit(code)


def ended(pid: int) -> int:
    """Wait for a child process; return its exit code, or minus the signal that killed it."""
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def train_in_child(recipe: Recipe, folder: Path, environment: dict[str, str] | None = None) -> int:
    """Start a training run in a child process and return its id."""
    return in_child(lambda: train(recipe, folder), environment)
