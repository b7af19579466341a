"""Training, in the open: `training_step` is what happens to a batch, `train` is everything around it.

Device and precision are Lightning Fabric's business. B clips, K classes, T frames, S side of a frame.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from rich.progress import Progress
from torch import Tensor, nn
from torch.optim.lr_scheduler import LRScheduler
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.data import DataLoader, Subset

from videoswin._optional import require
from videoswin.model.swin import VideoSwin
from videoswin.training.optimizer import adamw, one_cycle
from videoswin.training.recipe import Recipe
from videoswin.video.transforms import normalize
from videoswin.weights.checkpoint import Checkpoint

if TYPE_CHECKING:
    from lightning_fabric import Fabric

REPORT_EVERY = 50
"""Steps between two lines that say how training goes."""
STATE_EVERY = 250
"""Steps between two saved states; an interrupted run goes on from the last one."""


def training_step(
    fabric: Fabric,
    recipe: Recipe,
    model: nn.Module,
    average: AveragedModel,
    optimizer: torch.optim.Optimizer,
    schedule: LRScheduler,
    clips: Tensor,
    labels: Tensor,
) -> tuple[Tensor, Tensor]:
    """Learn from uint8 clips (B, 3, T, S, S) and labels (B,): the loss, and the part that was named right."""
    logits = model(normalize(clips, recipe.data.clip.normalisation))  # (B, K)
    loss = F.cross_entropy(logits.float(), labels, label_smoothing=recipe.augment.label_smoothing)
    fabric.backward(loss)
    fabric.clip_gradients(model, optimizer, max_norm=recipe.optimizer.largest_gradient)
    optimizer.step()
    optimizer.zero_grad()
    schedule.step()
    average.update_parameters(model)
    return loss.detach(), (logits.argmax(1) == labels).float().mean()


def train(recipe: Recipe, out: Path) -> Path:
    """Train as the recipe says, write `<out>/<recipe name>.safetensors`, and return its path.

    Goes on from `<out>/state.pt` where an earlier call stopped, ValueError if that was another recipe; the
    state is removed at the end. `<out>/log.txt` has a line for every REPORT_EVERY steps. The checkpoint
    holds the averaged weights.
    """
    fabric = require("lightning_fabric", extra="train").Fabric(devices=1, precision=recipe.run.precision)
    out.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(recipe.run.threads)
    torch.manual_seed(recipe.run.seed)

    bare = VideoSwin(recipe.model.config)
    recipe.model.initialize(bare)
    moving_average = get_ema_multi_avg_fn(recipe.optimizer.averaging)  # type: ignore[no-untyped-call]
    average = AveragedModel(bare, multi_avg_fn=moving_average)
    average.to(fabric.device)
    model, optimizer = fabric.setup(bare, adamw(bare, recipe.optimizer))
    schedule = one_cycle(optimizer, recipe.schedule)

    parts = {"model": bare, "average": average, "optimizer": optimizer, "schedule": schedule}
    made = load_state(out / "state.pt", recipe, parts)
    results = []
    with Progress() as progress, (out / "log.txt").open("a", encoding="utf-8", buffering=1) as log:
        bar = progress.add_task(recipe.name, total=recipe.schedule.steps, completed=made)
        for step, (clips, labels) in enumerate(batches(fabric, recipe, made), start=made + 1):
            result = training_step(fabric, recipe, model, average, optimizer, schedule, clips, labels)
            results.append(torch.stack(result))
            progress.advance(bar)
            if step % REPORT_EVERY == 0:
                loss, right = torch.stack(results[-REPORT_EVERY:]).mean(0).tolist()
                rate = schedule.get_last_lr()[0]
                line = f"step {step}  loss {loss:.3f}  right {right:.1%}  rate {rate:.1e}"
                progress.console.print(line)
                print(line, file=log)
            if step % STATE_EVERY == 0:
                save_state(out / "state.pt", recipe, step, parts)

    path = out / f"{recipe.name}.safetensors"
    checkpoint_of(recipe, average.module).save(path)
    (out / "state.pt").unlink(missing_ok=True)
    return path


def batches(fabric: Fabric, recipe: Recipe, made: int) -> Any:
    """Batches from step `made` on, the same for the same seed: uint8 clips (B, 3, T, S, S), labels (B,)."""
    dataset, size = recipe.data.clips(recipe.run.seed), recipe.data.items_per_step
    rest = Subset(dataset, range(made * size, recipe.schedule.steps * size))
    loader = DataLoader(rest, size, num_workers=recipe.data.workers, collate_fn=joined)
    return fabric.setup_dataloaders(loader)


def joined(items: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    """The clips of several items as one batch."""
    return torch.cat([clips for clips, _ in items]), torch.cat([labels for _, labels in items])


def checkpoint_of(recipe: Recipe, model: nn.Module) -> Checkpoint:
    """The weights and everything needed to use them."""
    return Checkpoint(
        weights={name: weight.cpu() for name, weight in model.state_dict().items()},
        config=recipe.model.config,
        clip=recipe.data.clip,
        views=recipe.data.views,
        labels=recipe.data.labels,
        lineage={"command": recipe.run.command, "trained on": recipe.data.source},
        licence=recipe.run.licence,
        name=recipe.name,
    )


def what_is_learned(recipe: Recipe) -> str:
    """What decides the weights, as text: runs that differ here must not be mixed."""
    data = recipe.data
    decisive = (data.source, data.clip, data.items_per_step, recipe.model.config, recipe.augment)
    return repr((recipe.name, recipe.run.seed, *decisive, recipe.optimizer, recipe.schedule))


def save_state(path: Path, recipe: Recipe, step: int, parts: dict[str, Any]) -> None:
    """Write everything that a run needs to go on after `step`, whole or not at all."""
    unfinished = path.with_suffix(".part")
    facts = {"step": step, "recipe": what_is_learned(recipe)}
    torch.save(facts | {name: part.state_dict() for name, part in parts.items()}, unfinished)
    os.replace(unfinished, path)


def load_state(path: Path, recipe: Recipe, parts: dict[str, Any]) -> int:
    """Steps that the saved run has made, its state now in `parts`; 0 if nothing was saved.

    ValueError if the saved run was one of another recipe.
    """
    if not path.exists():
        return 0
    state = torch.load(path, weights_only=True)
    if state["recipe"] != what_is_learned(recipe):
        raise ValueError(f"{path} belongs to a run of another recipe; choose another folder or remove it")
    for name, part in parts.items():
        part.load_state_dict(state[name])
    return int(state["step"])
