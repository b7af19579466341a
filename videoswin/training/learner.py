"""The model and everything that changes it, put together as a recipe says."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.random import Generator
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from videoswin._errors import InputError
from videoswin._optional import require
from videoswin.acceleration.cuda import use_fastest_attention, warn_if_emulated
from videoswin.data.dataset import Batch
from videoswin.inference.predictor import resolve_device
from videoswin.model.cpu import has_instructions_for
from videoswin.model.swin import VideoSwin, freeze_stages
from videoswin.training.batch_augment import erase, mix, soft_targets
from videoswin.training.data import Source
from videoswin.training.distributed import full_tensor, sharded_strategy
from videoswin.training.ema import ExponentialMovingAverage
from videoswin.training.lora import plain_state_dict, set_trainable
from videoswin.training.losses import balanced_class_weights
from videoswin.training.optim import adamw, schedule
from videoswin.training.recipe import (
    FABRIC_PRECISION,
    Model,
    Recipe,
    Run,
    TrainingPrecision,
    VideoData,
    require_one_weighting,
)
from videoswin.video.transforms import normalize
from videoswin.weights.checkpoint import Checkpoint
from videoswin.weights.metadata import require_description

if TYPE_CHECKING:
    from lightning_fabric import Fabric
    from lightning_fabric.wrappers import _FabricModule

SHOWN_CLIPS = 8
"""Clips of the first batch that samples.png shows."""


@dataclass(frozen=True, kw_only=True)
class Learner:
    """What a training step works on."""

    recipe: Recipe
    fabric: Fabric
    bare: VideoSwin
    """The model."""
    model: _FabricModule
    """The model as Fabric wraps it, for precision and for several devices."""
    optimizer: Optimizer
    schedule: LRScheduler
    average: ExponentialMovingAverage | None
    labels: tuple[str, ...]
    multi_label: bool
    class_weights: Tensor | None
    """(K,), or None if every clip counts the same."""
    lineage: dict[str, str]
    init_digest: str | None
    """Of the weights that the model started with; None if it started from nothing."""
    keeps_head: bool
    """True if the model started with a trained head for these very classes."""

    def randomness(self, step: int) -> Generator:
        """What is random about one step, torch's own included: it follows from seed, step and process."""
        rng = np.random.default_rng((self.recipe.run.seed, step, self.fabric.global_rank))
        torch.manual_seed(int(rng.integers(2**63)))
        return rng

    def prepare(self, batch: Batch, rng: Generator) -> tuple[Tensor, Tensor]:
        """What the model sees and what it should answer: (B, 3, T, S, S) floats, (B, K) shares."""
        augment = self.recipe.augment
        clips = normalize(batch.clips, self.recipe.data.clip.normalization)
        clips = erase(clips, augment.erasing, rng)
        targets = soft_targets(batch.targets, len(self.labels), augment.label_smoothing)
        return mix(clips, targets, batch.counts, mixup=augment.mixup, cutmix=augment.cutmix, rng=rng)

    def sample_strips(self, batch: Batch, videos: Sequence[str] = ()) -> list[tuple[str, Tensor]]:
        """Some clips of a batch as the model sees them, to look at: caption, (T, S, S, 3) uint8.

        videos: the name of the video of each clip; none where clips are generated.
        """
        clips, targets = self.prepare(batch, self.randomness(0))
        source = self.recipe.data
        num_repeats = source.num_repeats if isinstance(source, VideoData) else 1
        chosen = _different(batch.targets, num_repeats, SHOWN_CLIPS)
        captions = [self._caption(targets[place], videos[place] if videos else None) for place in chosen]
        return list(zip(captions, to_display(clips[chosen]), strict=True))

    def _caption(self, target: Tensor, video: str | None) -> str:
        """The video of a clip, and the labels of its target with their weights."""
        shares, classes = target.topk(min(2, len(target)))
        named = zip(shares.tolist(), classes.tolist(), strict=True)
        labels = ", ".join(
            f"{self.labels[label]} {100 * share:.0f} %" for share, label in named if share > 0.01
        )
        return f"target: {labels}" if video is None else f"{video}   target: {labels}"

    def checkpoint(self) -> Checkpoint:
        """The newest weights, averaged if the recipe averages, and everything needed to use them."""
        if self.average is not None:
            with self.average.applied():
                return self._checkpoint()
        return self._checkpoint()

    def _checkpoint(self) -> Checkpoint:
        weights = {
            name: full_tensor(w.detach()).float().cpu().clone()
            for name, w in plain_state_dict(self.bare).items()
        }
        return Checkpoint(
            weights=weights,
            config=self.bare.config,
            clip=self.recipe.data.clip,
            views=self.recipe.data.views,
            labels=self.labels,
            multi_label=self.multi_label,
            lineage=self.lineage,
            license=self.recipe.run.license,
            name=self.recipe.name,
        )


def require_training_packages() -> None:
    """Raise MissingPackageError if a package is not installed that a run needs, be it only at its end."""
    for package in ("lightning_fabric", "matplotlib", "tensorboard"):
        require(package, extra="train")


def training_device(name: str) -> torch.device:
    """The torch device of a run whose `run.device` is `name`; InputError if it is not there."""
    return resolve_device({"gpu": "cuda"}.get(name, name))


def natural_precision(device: str) -> TrainingPrecision:
    """Return bf16 where the hardware has it, fp16 on other CUDA devices, else fp32."""
    if device == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"
    return "bf16" if device == "cpu" and has_instructions_for(torch.bfloat16) else "fp32"


def launch(run: Run) -> Fabric:
    """Fabric with this run's devices, its processes started, each with its threads."""
    require_training_packages()
    training_device(run.device)  # or one clear error
    fabric: Fabric = require("lightning_fabric", extra="train").Fabric(
        accelerator=run.device,
        devices=run.devices,
        num_nodes=run.num_nodes,
        strategy=sharded_strategy(run.devices * run.num_nodes) if run.strategy == "fsdp" else run.strategy,
        precision=FABRIC_PRECISION[run.precision],
    )
    fabric.launch()
    if run.num_threads is not None:
        torch.set_num_threads(run.num_threads)
    return fabric


def assemble(recipe: Recipe, source: Source, fabric: Fabric, steps_per_epoch: int) -> Learner:
    """The learner before its first step; its random weights, if any, depend on the seed alone."""
    torch.manual_seed(recipe.run.seed)
    start = load_initial_checkpoint(recipe.model)
    bare, keeps_head, lineage = build_model(recipe, start, source.labels)
    if recipe.run.precision != "fp32":
        half = torch.float16 if recipe.run.precision == "fp16" else torch.bfloat16
        if fabric.is_global_zero:
            warn_if_emulated(fabric.device, half)
        use_fastest_attention(bare, fabric.device, half)
    set_trainable(bare, recipe.model.trainable, recipe.model.lora_rank)
    try:
        freeze_stages(bare, recipe.model.frozen_stages)
    except ValueError as error:
        raise InputError(f"model.{error}") from error
    plan = recipe.optimizer
    # A checkpoint would refuse these only after the first epoch.
    require_description(
        name=recipe.name,
        labels=source.labels,
        multi_label=source.multi_label,
        license=recipe.run.license,
        lineage=lineage,
    )
    # Lightning does not clip the gradients of a fused optimizer that works under a loss scaler.
    fused = plan.max_grad_norm is None or recipe.run.precision != "fp16"
    model = fabric.setup_module(bare.train())
    # Sharding puts other tensors in the place of the model's, so the optimizer comes after it.
    optimizer: Any = fabric.setup_optimizers(adamw(bare, plan, fused=fused))
    require_one_weighting(
        class_weights=plan.class_weights, class_balanced=source.class_balanced, multi_label=source.multi_label
    )
    weights = balanced_class_weights(source.class_counts).to(fabric.device) if plan.class_weights else None
    return Learner(
        recipe=recipe,
        fabric=fabric,
        bare=bare,
        model=model,
        optimizer=optimizer,
        schedule=schedule(optimizer, recipe.schedule, steps_per_epoch),
        average=None if plan.ema_decay is None else ExponentialMovingAverage(bare, plan.ema_decay),
        labels=source.labels,
        multi_label=source.multi_label,
        class_weights=weights,
        lineage=lineage | {"trained on": source.description},
        init_digest=weights_digest(start),
        keeps_head=keeps_head,
    )


def load_initial_checkpoint(plan: Model) -> Checkpoint | None:
    """The checkpoint that a run starts from; None if it starts from nothing."""
    if plan.init_from is None:
        return None
    return Checkpoint.load(plan.init_from, window=plan.config.window if plan.config else None)


def weights_digest(checkpoint: Checkpoint | None) -> str | None:
    """SHA-256 of the names and values of its weights, whatever file they are in; None for none."""
    if checkpoint is None:
        return None
    digest = hashlib.sha256()
    for name, weight in sorted(checkpoint.weights.items()):
        digest.update(f"{name} {weight.dtype} {tuple(weight.shape)}".encode())
        digest.update(weight.cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return f"SHA-256 {digest.hexdigest()[:16]}"


def build_model(
    recipe: Recipe, checkpoint: Checkpoint | None, labels: tuple[str, ...]
) -> tuple[VideoSwin, bool, dict[str, str]]:
    """The model at its start, whether its head is a trained one for these labels, and its lineage.

    checkpoint: that of `load_start`. ValueError for a recipe that would start from random weights without
    saying so, or from a checkpoint of another architecture than its `config`.
    """
    plan = recipe.model
    options: dict[str, Any] = {
        "drop_path": plan.drop_path,
        "dropout": plan.dropout,
        "grad_checkpointing": plan.grad_checkpointing,
    }
    if checkpoint is None:
        if plan.config is None or plan.initialize is None:
            raise InputError(
                "no initial weights: name a model or file (--model or model.init_from), or give the recipe "
                "both a config and initialize() to train from scratch"
            )
        model = VideoSwin(plan.config.replace(num_classes=len(labels)), **options)
        plan.initialize(model)
        return model, False, {"started from": "random weights"}

    if plan.config is not None:
        theirs = replace(checkpoint.config, num_classes=plan.config.num_classes)
        if theirs != plan.config:
            raise InputError(f"{plan.init_from} is a {theirs}; the recipe wants a {plan.config}")
    keeps_head = checkpoint.has_head and checkpoint.labels == labels
    model = checkpoint.model(num_classes=None if keeps_head else len(labels), **options)
    return model, keeps_head, {"started from": f"{checkpoint.name} ({plan.init_from})"}


def _different(targets: Tensor, num_repeats: int, count: int) -> list[int]:
    """Up to `count` places in a batch: of as many videos as there are, and of these as many classes.

    repeats: Clips of one video, which lie beside each other.
    """
    drawn: Counter[tuple[float, ...]] = Counter()
    turns = []
    labels = [tuple(target) for target in targets.reshape(len(targets), -1).tolist()]
    for place in sorted(range(len(labels)), key=lambda place: place % num_repeats):
        turns.append((place % num_repeats, drawn[labels[place]], place))
        drawn[labels[place]] += 1
    return sorted(place for *_, place in sorted(turns)[:count])


def to_display(clips: Tensor) -> Tensor:
    """Normalized clips as pictures again, each stretched to the whole range: (B, T, S, S, 3) uint8."""
    clips = clips.detach().float().cpu().movedim(1, -1)  # (B, T, S, S, 3)
    low, high = clips.amin((1, 2, 3, 4), keepdim=True), clips.amax((1, 2, 3, 4), keepdim=True)
    return ((clips - low) / (high - low).clamp(min=1e-6) * 255).round().to(torch.uint8)
