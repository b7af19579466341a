"""What fine-tuning starts from: the videos, the weights and the machine, looked at once."""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import dataclass, replace
from typing import Any, Final, NamedTuple

import torch

from videoswin.data.manifest import Manifest
from videoswin.model.cached import has_instructions_for
from videoswin.recipes.speed import Durations, Speed, measure_durations, measure_speed
from videoswin.training.learner import training_device
from videoswin.training.memory import Trainable
from videoswin.training.recipe import TrainingPrecision, VideoData
from videoswin.training.safeguards import total_bytes
from videoswin.training.source import training_and_validation
from videoswin.video.spec import ClipSpec
from videoswin.weights.checkpoint import Checkpoint

SMALL_MODEL: Final = 5_000_000
"""Weights below which a model is small: all of them learn quickly anywhere. Swin-T has 28 million."""


class Choice(NamedTuple):
    """Settings, and why they are what they are."""

    settings: dict[str, Any]
    reason: str


@dataclass(frozen=True, kw_only=True)
class Situation:
    """The facts that the choices of fine-tuning follow from."""

    checkpoint: Checkpoint
    """Where training starts."""
    classes: tuple[str, ...]
    counts: tuple[int, ...]
    """Training videos of each class."""
    videos: int
    """Training videos."""
    multi_label: bool
    device: str
    """Where training will be, as torch names the kind: cuda, mps, cpu, ..."""
    precision: str
    """That set by hand, or the fastest one that the device has by nature, as Lightning Fabric spells it."""
    cores: int
    training: Manifest | None = None
    """The training videos."""
    num_validation: int = 0
    """Validation videos."""
    durations: Durations | None = None
    """How long the training videos last; None if that is not known."""
    speed: Speed | None = None
    """What a clip costs on this machine; None if that was not measured."""
    memory: int = 8 * 2**30
    """Bytes that a step may take: half of what the device has; the default where that is not known."""
    workers: int | None = None
    """Data workers set by hand; None lets them follow the device and the cores."""
    devices: int = 1
    """Devices of each machine."""
    nodes: int = 1
    """Machines."""
    grad_checkpointing: bool = False
    """Whether blocks are recomputed in the backward pass."""
    class_weights: bool = False
    """Whether the loss is weighed so that every class counts the same."""

    def timed(self, clip: ClipSpec, trainable: Trainable) -> Situation:
        """Return the situation with the speed of this machine for such clips and trainable parameters."""
        if self.training is None:
            return self
        config = self.checkpoint.config
        speed = measure_speed(self.training, config, clip, trainable, self.device, self.precision)
        return replace(self, speed=speed)

    @property
    def processes(self) -> int:
        """Processes that share each batch, one a device."""
        return self.devices * self.nodes

    @property
    def per_class(self) -> float:
        """Training videos of a class, on average."""
        return sum(self.counts) / len(self.counts)

    @property
    def num_parameters(self) -> int:
        """Parameters of the start model."""
        return sum(weight.numel() for weight in self.checkpoint.weights.values())

    @property
    def is_small(self) -> bool:
        """Whether the model is small; see SMALL_MODEL."""
        return self.num_parameters < SMALL_MODEL

    @property
    def is_slow(self) -> bool:
        """Whether to train the model as a whole here would take days."""
        return self.device == "cpu" and not self.is_small


def look_at(
    source: VideoData,
    start: str,
    *,
    device: str = "auto",
    precision: TrainingPrecision | None = None,
    workers: int | None = None,
    devices: int = 1,
    nodes: int = 1,
    grad_checkpointing: bool = False,
    class_weights: bool = False,
) -> Situation:
    """The situation of a run on these videos from that checkpoint, on this machine.

    Args:
        source: The videos.
        start: Catalog name, bundled name or file of the checkpoint.
        device: As in recipe.Run; the rest follows from this device, not from the best one.
        precision: That set by hand; None takes the fastest that the device has by nature.
        workers: Data workers set by hand; None lets them follow the device.
        devices: As in recipe.Run.
        nodes: As in recipe.Run.
        checkpointing: As in recipe.Model.
        class_weights: As in recipe.Optimizer.

    Raises:
        InputError: As for `read_manifest`, `hold_out`, `Checkpoint.load` and `training_device`.
    """
    checkpoint = Checkpoint.load(start)
    training, validation = training_and_validation(source, seed=0)
    counted = Counter(label for sample in training.samples for label in sample.labels)
    place = training_device(device)
    # All of it, not what is free now: a run that is resumed must choose what it chose before.
    total = total_bytes(place)
    found = Situation(
        checkpoint=checkpoint,
        classes=training.classes,
        counts=tuple(counted[label] for label in range(len(training.classes))),
        videos=len(training.samples),
        training=training,
        num_validation=len(validation.samples) if validation else 0,
        durations=measure_durations(training.samples),
        multi_label=training.multi_label,
        device=place.type,
        precision=precision or natural_precision(place.type),
        cores=os.cpu_count() or 1,
        workers=workers,
        devices=devices,
        nodes=nodes,
        grad_checkpointing=grad_checkpointing,
        class_weights=class_weights,
    )
    return found if total is None else replace(found, memory=total // 2)


def natural_precision(device: str) -> TrainingPrecision:
    """bf16 where the hardware has it, fp16 on other CUDA devices, else fp32, in Lightning Fabric's words."""
    if device == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"
    return "bf16" if device == "cpu" and has_instructions_for(torch.bfloat16) else "fp32"
