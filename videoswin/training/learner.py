"""Build the model, optimizer, scheduler and moving average of a recipe."""

from __future__ import annotations

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

from videoswin._errors import InputError, require
from videoswin.acceleration import resolve_device, use_training_attention
from videoswin.acceleration.cpu import has_instructions_for, warn_if_emulated
from videoswin.data.dataset import Batch
from videoswin.inference.backends import Precision
from videoswin.inference.backends.pytorch import PRECISIONS
from videoswin.model.swin import VideoSwin, freeze_stages
from videoswin.training.data import DataSource
from videoswin.training.lora import merged_state_dict, set_trainable
from videoswin.training.losses import balanced_class_weights, classification_loss, erase, mix, soft_targets
from videoswin.training.optim import ExponentialMovingAverage, build_adamw, build_lr_scheduler
from videoswin.training.recipe import (
    FABRIC_PRECISION,
    Recipe,
    Run,
    VideoData,
    require_one_weighting,
)
from videoswin.training.state import LearningState, fsdp_strategy, full_tensor
from videoswin.video.views import normalize
from videoswin.weights.checkpoint import Checkpoint
from videoswin.weights.metadata import require_description

if TYPE_CHECKING:
    from lightning_fabric import Fabric
    from lightning_fabric.wrappers import _FabricModule

NUM_PREVIEW_CLIPS = 8
"""Number of clips of the first batch in samples.png."""


@dataclass(frozen=True, kw_only=True)
class Learner:
    """Model, optimizer and everything else that a training step uses."""

    recipe: Recipe
    """The recipe of the run."""
    fabric: Fabric
    """Device, precision and processes."""
    raw_model: VideoSwin
    """The model itself; its parameters are sharded with FSDP."""
    model: _FabricModule
    """The model wrapped by Fabric, for mixed precision and distributed training."""
    optimizer: Optimizer
    """The optimizer, wrapped by Fabric."""
    scheduler: LRScheduler
    """Learning rate scheduler; it advances once per step."""
    ema: ExponentialMovingAverage | None
    """Moving average of the trainable parameters; None if the recipe has no `ema_decay`."""
    labels: tuple[str, ...]
    """Names of the classes, in the order of the logits."""
    multi_label: bool
    """Whether a clip can have several labels."""
    class_weights: Tensor | None
    """Weights of the classes in the loss, (K,); None for equal weights."""
    lineage: dict[str, str]
    """Origin of the weights, for the checkpoint."""
    keeps_head: bool
    """Whether the initial weights include a trained head for the same classes."""

    def rng_of_step(self, step: int) -> Generator:
        """Return the random generator of one step, and seed torch's global generator.

        Both depend only on the seed of the run, the step and the rank of the process.
        """
        rng = np.random.default_rng((self.recipe.run.seed, step, self.fabric.global_rank))
        torch.manual_seed(int(rng.integers(2**63)))
        return rng

    def prepare(self, batch: Batch, rng: Generator) -> tuple[Tensor, Tensor]:
        """Normalize and augment a batch on its device.

        Returns:
            Float clips (B, 3, T, S, S) and soft targets (B, K).
        """
        augment = self.recipe.augment
        clips = normalize(batch.clips, self.recipe.data.clip.normalization)
        clips = erase(clips, augment.random_erasing, rng)
        targets = soft_targets(batch.targets, len(self.labels), augment.label_smoothing)
        return mix(clips, targets, batch.weights, mixup=augment.mixup, cutmix=augment.cutmix, rng=rng)

    def loss(self, logits: Tensor, targets: Tensor, weights: Tensor, total_weight: Tensor) -> Tensor:
        """Return the loss of a micro-batch.

        Args:
            logits: (B, K), float32.
            targets: Soft targets (B, K).
            weights: (B,), 1, or 0 for clips that must not contribute.
            total_weight: Sum of the weights of the whole batch, see `classification_loss`.
        """
        return classification_loss(
            logits,
            targets,
            weights,
            self.class_weights,
            multi_label=self.multi_label,
            total_weight=total_weight,
        )

    def clip_gradients(self) -> None:
        """Clip the norm of the gradients to `max_grad_norm`, if the recipe has one."""
        max_norm = self.recipe.optimizer.max_grad_norm
        if max_norm is not None:
            # A NaN or infinite loss is reported later, with a more helpful error than this function's.
            self.fabric.clip_gradients(
                self.model, self.optimizer, max_norm=max_norm, error_if_nonfinite=False
            )

    @property
    def score_name(self) -> str:
        """Name of the score that validation compares checkpoints by."""
        return "mAP" if self.multi_label else "top-1"

    @property
    def lr(self) -> float:
        """The highest learning rate of the next step."""
        return float(max(self.scheduler.get_last_lr()))

    def stateful_parts(self) -> dict[str, Any]:
        """Return everything that a step changes, by its key in the saved state."""
        parts: dict[str, Any] = {
            "learning": LearningState(self.raw_model, self.optimizer),
            "schedule": self.scheduler,
        }
        if self.ema is not None:
            parts["average"] = self.ema
        if (scaler := getattr(self.fabric.strategy.precision, "scaler", None)) is not None:
            parts["scaler"] = scaler
        return parts

    def preview_clips(self, batch: Batch, videos: Sequence[str] = ()) -> list[tuple[str, Tensor]]:
        """Return some clips of a batch after augmentation, for samples.png.

        Args:
            batch: A batch of uint8 clips.
            videos: The name of the video of each clip; empty for synthetic clips.

        Returns:
            Caption and frames (T, S, S, 3), uint8, of at most `NUM_PREVIEW_CLIPS` clips.
        """
        clips, targets = self.prepare(batch, self.rng_of_step(0))
        data = self.recipe.data
        num_repeats = data.num_repeats if isinstance(data, VideoData) else 1
        chosen = _choose_diverse(batch.targets, num_repeats, NUM_PREVIEW_CLIPS)
        captions = [self._caption(targets[index], videos[index] if videos else None) for index in chosen]
        return list(zip(captions, to_display(clips[chosen]), strict=True))

    def _caption(self, target: Tensor, video: str | None) -> str:
        """Return the name of the video and the two largest values of its target."""
        values, classes = target.topk(min(2, len(target)))
        pairs = zip(values.tolist(), classes.tolist(), strict=True)
        labels = ", ".join(
            f"{self.labels[label]} {100 * value:.0f} %" for value, label in pairs if value > 0.01
        )
        return f"target: {labels}" if video is None else f"{video}   target: {labels}"

    def checkpoint(self) -> Checkpoint:
        """Return a checkpoint of the current weights, or of their moving average if there is one."""
        if self.ema is not None:
            with self.ema.average_parameters():
                return self._checkpoint()
        return self._checkpoint()

    def _checkpoint(self) -> Checkpoint:
        weights = {
            name: full_tensor(w.detach()).float().cpu().clone()
            for name, w in merged_state_dict(self.raw_model).items()
        }
        return Checkpoint(
            weights=weights,
            config=self.raw_model.config,
            clip=self.recipe.data.clip,
            views=self.recipe.data.views,
            labels=self.labels,
            multi_label=self.multi_label,
            lineage=self.lineage,
            license=self.recipe.run.license,
            name=self.recipe.name,
        )


def require_training_packages() -> None:
    """Raise MissingPackageError if a package is missing that a run uses at any time, even at its end."""
    for package in ("lightning_fabric", "matplotlib", "tensorboard"):
        require(package, extra="train")


def training_device(name: str) -> torch.device:
    """Return the torch device for a value of `run.device`.

    Raises:
        InputError: The machine does not have this device.
    """
    return resolve_device({"gpu": "cuda"}.get(name, name))


def natural_precision(device: str) -> Precision:
    """Return the fastest precision: bf16 with hardware support, else fp16 on CUDA, else fp32.

    Args:
        device: Device type, such as `cpu` or `cuda`.
    """
    if device == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"
    return "bf16" if device == "cpu" and has_instructions_for(torch.bfloat16) else "fp32"


def launch_fabric(run: Run) -> Fabric:
    """Start Lightning Fabric with the devices and processes of a run, and set the threads of each process."""
    require_training_packages()
    training_device(run.device)  # its error is clearer than that of Fabric
    fabric: Fabric = require("lightning_fabric", extra="train").Fabric(
        accelerator=run.device,
        devices=run.devices,
        num_nodes=run.num_nodes,
        strategy=fsdp_strategy(run.devices * run.num_nodes) if run.strategy == "fsdp" else run.strategy,
        precision=FABRIC_PRECISION[run.precision],
    )
    fabric.launch()
    if run.num_threads is not None:
        torch.set_num_threads(run.num_threads)
    return fabric


def build_learner(
    recipe: Recipe, source: DataSource, initial: Checkpoint | None, fabric: Fabric, steps_per_epoch: int
) -> Learner:
    """Build model, optimizer, scheduler and moving average before the first step.

    Random initial values depend only on the seed of the run.

    Args:
        recipe: The recipe of the run.
        source: Its data.
        initial: Its initial checkpoint; None if the model is trained from scratch.
        fabric: Device, precision and processes.
        steps_per_epoch: Number of steps in an epoch.

    Raises:
        InputError: The recipe has no initialization, or settings that contradict each other or the data.
    """
    torch.manual_seed(recipe.run.seed)
    raw_model, keeps_head, lineage = build_model(recipe, initial, source.labels)
    dtype = PRECISIONS[recipe.run.precision]
    if fabric.is_global_zero:
        warn_if_emulated(fabric.device, dtype)
    use_training_attention(raw_model, fabric.device, dtype, kernels=recipe.run.kernels)
    set_trainable(raw_model, recipe.model.trainable, recipe.model.lora_rank)
    try:
        freeze_stages(raw_model, recipe.model.frozen_stages)
    except ValueError as error:
        raise InputError(f"model.{error}") from error
    config = recipe.optimizer
    # Checkpoints validate these values too, but the first one is written after the first epoch.
    require_description(
        name=recipe.name,
        labels=source.labels,
        multi_label=source.multi_label,
        license=recipe.run.license,
        lineage=lineage,
    )
    # Lightning does not clip the gradients of a fused optimizer under a loss scaler.
    fused = config.max_grad_norm is None or recipe.run.precision != "fp16"
    model = fabric.setup_module(raw_model.train())
    # Sharding replaces the parameters of the model, so the optimizer is created after it.
    optimizer: Any = fabric.setup_optimizers(build_adamw(raw_model, config, fused=fused))
    require_one_weighting(
        class_weights=config.class_weights,
        class_balanced=source.class_balanced,
        multi_label=source.multi_label,
    )
    class_weights = None
    if config.class_weights:
        class_weights = balanced_class_weights(source.class_counts).to(fabric.device)
    return Learner(
        recipe=recipe,
        fabric=fabric,
        raw_model=raw_model,
        model=model,
        optimizer=optimizer,
        scheduler=build_lr_scheduler(optimizer, recipe.schedule, steps_per_epoch),
        ema=None if config.ema_decay is None else ExponentialMovingAverage(raw_model, config.ema_decay),
        labels=source.labels,
        multi_label=source.multi_label,
        class_weights=class_weights,
        lineage=lineage | {"trained on": source.description},
        keeps_head=keeps_head,
    )


def build_model(
    recipe: Recipe, checkpoint: Checkpoint | None, labels: tuple[str, ...]
) -> tuple[VideoSwin, bool, dict[str, str]]:
    """Build the initial model of a run.

    Args:
        recipe: The recipe of the run.
        checkpoint: The initial checkpoint; None to train from scratch.
        labels: Names of the classes.

    Returns:
        The model, whether its head is already trained for these labels, and its lineage.

    Raises:
        InputError: There is no checkpoint and the recipe does not initialize the model, or the checkpoint
            does not have the architecture of `model.config`.
    """
    model_recipe = recipe.model
    options: dict[str, Any] = {
        "drop_path": model_recipe.drop_path,
        "dropout": model_recipe.dropout,
        "grad_checkpointing": model_recipe.grad_checkpointing,
    }
    if checkpoint is None:
        if model_recipe.config is None or model_recipe.initialize is None:
            raise InputError(
                "no initial weights: name a model or file (--model or model.init_from), or give the recipe "
                "both a config and initialize() to train from scratch"
            )
        model = VideoSwin(model_recipe.config.replace(num_classes=len(labels)), **options)
        model_recipe.initialize(model)
        return model, False, {"started from": "random weights"}

    if model_recipe.config is not None:
        config = replace(checkpoint.config, num_classes=model_recipe.config.num_classes)
        if config != model_recipe.config:
            raise InputError(
                f"{model_recipe.init_from} must have the architecture of model.config, "
                f"{model_recipe.config}, got {config}: choose other initial weights, or set model.config=null"
            )
    keeps_head = checkpoint.has_head and checkpoint.labels == labels
    model = checkpoint.model(num_classes=None if keeps_head else len(labels), **options)
    return model, keeps_head, {"started from": f"{checkpoint.name} ({model_recipe.init_from})"}


def _choose_diverse(targets: Tensor, num_repeats: int, count: int) -> list[int]:
    """Return the indices of up to `count` clips, from as many videos and then as many classes as possible.

    Args:
        targets: Class indices (B,), or zeros and ones (B, K).
        num_repeats: Number of consecutive clips that are of the same video.
        count: Maximum number of clips.
    """
    seen: Counter[tuple[float, ...]] = Counter()
    ranked = []
    labels = [tuple(target) for target in targets.reshape(len(targets), -1).tolist()]
    for index in sorted(range(len(labels)), key=lambda index: index % num_repeats):
        ranked.append((index % num_repeats, seen[labels[index]], index))
        seen[labels[index]] += 1
    return sorted(index for *_, index in sorted(ranked)[:count])


def to_display(clips: Tensor) -> Tensor:
    """Convert normalized clips (B, 3, T, S, S) to images (B, T, S, S, 3), uint8, scaled to 0-255 per clip."""
    clips = clips.detach().float().cpu().movedim(1, -1)  # (B, T, S, S, 3)
    low, high = clips.amin((1, 2, 3, 4), keepdim=True), clips.amax((1, 2, 3, 4), keepdim=True)
    return ((clips - low) / (high - low).clamp(min=1e-6) * 255).round().to(torch.uint8)
