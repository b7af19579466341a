"""Measure and describe what fine-tuning starts from: the videos, the initial weights and the machine."""

from __future__ import annotations

import os
import statistics
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, Final, NamedTuple

import numpy as np
import torch

from videoswin._text import plural
from videoswin.acceleration.cuda import use_fastest_attention
from videoswin.data.dataset import read_random_clip
from videoswin.data.manifest import Manifest, Sample
from videoswin.model.config import VideoSwinConfig
from videoswin.model.swin import VideoSwin
from videoswin.training.data import training_and_validation
from videoswin.training.learner import natural_precision, training_device
from videoswin.training.lora import set_trainable
from videoswin.training.memory import Trainable, estimate_training_bytes, format_bytes, total_bytes
from videoswin.training.recipe import TrainingPrecision, VideoData
from videoswin.video.frames import excerpt
from videoswin.video.reader import VideoError, open_video
from videoswin.video.spec import ClipSpec
from videoswin.weights.checkpoint import Checkpoint

TIMED_VIDEOS: Final = 32
"""Videos whose length is asked for, evenly spread over the list."""
TIMED_CLIPS: Final = 6
"""Clips that are decoded to see how long that takes."""
QUICK_PASS_SECONDS: Final = 1.0
"""If a training step of one clip takes less, one of BATCH clips is timed: it is faster, and warmed up."""
BATCH: Final = 8


class Durations(NamedTuple):
    """How long videos last, or their labeled parts, in seconds."""

    shortest: float
    median: float
    longest: float
    fps: float
    """Their median frame rate."""


@dataclass(frozen=True, kw_only=True)
class Speed:
    """Seconds that one clip takes on this machine."""

    decode: float
    """To read it, in one process."""
    learn: float
    """To learn from it, in a batch."""


@lru_cache(maxsize=8)
def measure_durations(samples: tuple[Sample, ...]) -> Durations | None:
    """Return the lengths of up to TIMED_VIDEOS of the videos; None if none can be read."""
    seconds, choose_learning_rates = [], []
    for sample in _spread(samples, TIMED_VIDEOS):
        with suppress(VideoError), open_video(sample.path) as video:
            part = excerpt(video, sample.start_seconds, sample.end_seconds)
            seconds.append(part.duration_seconds)
            choose_learning_rates.append(video.fps)
    if not seconds:
        return None
    return Durations(
        min(seconds), statistics.median(seconds), max(seconds), statistics.median(choose_learning_rates)
    )


def measure_speed(
    training: Manifest,
    config: VideoSwinConfig,
    clip: ClipSpec,
    trainable: Trainable,
    device: str,
    precision: str,
) -> Speed | None:
    """Decode some clips and make a training step; None if none of the videos can be read.

    Args:
        training: The videos to learn from.
        config: The model, which is made with random weights.
        clip: What it sees.
        tune: Which parameters are trained.
        device: Where, as torch names it.
        precision: As in recipe.Run.
    """
    decode = _decode_seconds(training.samples, clip)
    if decode is None:
        return None
    return Speed(decode=decode, learn=_learn_seconds(config, clip, trainable, device, precision))


@lru_cache(maxsize=8)  # the choices are made once, and explained once more
def _decode_seconds(samples: tuple[Sample, ...], clip: ClipSpec) -> float | None:
    seconds = []
    rng = np.random.default_rng(0)
    for sample in _spread(samples, TIMED_CLIPS):
        since = time.perf_counter()
        with suppress(VideoError), open_video(sample.path) as video:
            read_random_clip(excerpt(video, sample.start_seconds, sample.end_seconds), clip, rng)
            seconds.append(time.perf_counter() - since)
    return statistics.median(seconds) if seconds else None


@lru_cache(maxsize=8)
def _learn_seconds(
    config: VideoSwinConfig, clip: ClipSpec, trainable: Trainable, device: str, precision: str
) -> float:
    half = torch.float16 if precision == "fp16" else torch.bfloat16
    with torch.random.fork_rng():
        model = VideoSwin(config)
        set_trainable(model, trainable, 8)
        model.to(device).train()
        if precision != "fp32":
            use_fastest_attention(model, device, half)

        def step(count: int) -> float:
            shape = (count, config.in_channels, clip.frames, clip.size, clip.size)
            clips = torch.randn(shape, device=device)
            since = time.perf_counter()
            with torch.autocast(device, half, enabled=precision != "fp32"):
                loss = model(clips).float().logsumexp(1).sum()
            loss.backward()
            loss.item()  # waits for the device
            return time.perf_counter() - since

        alone = step(1)
        return step(BATCH) / BATCH if alone < QUICK_PASS_SECONDS else alone


def _spread(samples: tuple[Sample, ...], count: int) -> list[Sample]:
    """Return up to `count` of the samples, evenly spread."""
    places = np.linspace(0, len(samples) - 1, min(count, len(samples))).round().astype(int)
    return [samples[place] for place in dict.fromkeys(places.tolist())]


SMALL_MODEL: Final = 5_000_000
"""Weights below which a model is small: all of them learn quickly anywhere. Swin-T has 28 million."""


class Choice(NamedTuple):
    """Settings, and why they are what they are."""

    settings: dict[str, Any]
    reason: str


@dataclass(frozen=True, kw_only=True)
class TrainingContext:
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

    def with_speed(self, clip: ClipSpec, trainable: Trainable) -> TrainingContext:
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


def inspect_context(
    source: VideoData,
    init_from: str,
    *,
    device: str = "auto",
    precision: TrainingPrecision | None = None,
    workers: int | None = None,
    devices: int = 1,
    nodes: int = 1,
    grad_checkpointing: bool = False,
    class_weights: bool = False,
) -> TrainingContext:
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
    checkpoint = Checkpoint.load(init_from)
    training, validation = training_and_validation(source, seed=0)
    counted = Counter(label for sample in training.samples for label in sample.labels)
    place = training_device(device)
    # All of it, not what is free now: a run that is resumed must choose what it chose before.
    total = total_bytes(place)
    found = TrainingContext(
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


WORKERS: Final = 2
"""Processes that decode for each device, if there are as many cores; on CUDA WORKERS_ON_CUDA."""
WORKERS_ON_CUDA: Final = 8


def precision(context: TrainingContext) -> Choice:
    """The number format, and the processes that decode."""
    fastest, workers = natural_precision(context.device), _default_workers(context)
    settings = {"run.precision": context.precision, "data.num_workers": num_workers(context)}
    by_hand = [
        name
        for name, is_own in (
            ("run.precision", context.precision == fastest),
            ("data.num_workers", settings["data.num_workers"] == workers),
        )
        if not is_own
    ]
    reason = f"{fastest} is the fastest precision that {context.device} supports in hardware"
    reason += f"; {plural(context.cores, 'CPU core')}"
    return Choice(settings, f"you set {' and '.join(by_hand)}: {reason}" if by_hand else reason)


def repeats_for(context: TrainingContext) -> tuple[int, str]:
    """Clips made of a decoded one, as many as keep the model busy, and why."""
    speed = context.speed
    if speed is None or context.videos < 4:
        return 1, ""
    waiting = speed.decode / decoding_processes(context) / speed.learn
    num_repeats = 4 if waiting > 2 else 2 if waiting > 1 else 1
    times = (
        f"decoding a clip takes {1000 * speed.decode:.0f} ms, a training step {1000 * speed.learn:.0f} ms a "
        "clip"
    )
    return num_repeats, f", {plural(num_repeats, 'clip')} of each: {times}"


def num_workers(context: TrainingContext) -> int:
    """Data workers of each device: those set by hand, or what fits the device and the cores."""
    return _default_workers(context) if context.workers is None else context.workers


def decoding_processes(context: TrainingContext) -> int:
    """How many processes decode at the same time for each device; without workers it is the trainer's own."""
    return max(1, min(num_workers(context), context.cores // context.devices))


def memory(
    context: TrainingContext, clip: ClipSpec, trainable: Trainable, batch: int, num_repeats: int
) -> Choice:
    """Micro-batches that fit into the situation's memory, by estimate."""
    clips, parts = batch // context.processes, 1
    while (
        batch % (2 * parts * num_repeats * context.processes) == 0
        and _step_bytes(context, clip, trainable, clips // parts) > context.memory
    ):
        parts *= 2
    needed = format_bytes(_step_bytes(context, clip, trainable, clips // parts))
    return Choice(
        {"run.grad_accum_steps": parts}, f"{plural(clips // parts, 'clip')} at a time take about {needed}"
    )


def _default_workers(context: TrainingContext) -> int:
    return min(WORKERS_ON_CUDA if context.device == "cuda" else WORKERS, context.cores)


def _step_bytes(context: TrainingContext, clip: ClipSpec, trainable: Trainable, clips: int) -> int:
    return estimate_training_bytes(
        context.checkpoint.config,
        clip,
        clips,
        precision=context.precision,
        grad_checkpointing=context.grad_checkpointing,
        trainable=trainable,
        ema=False,
        device_type=context.device,
    )
