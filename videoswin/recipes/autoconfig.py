"""Inspect videos, initial checkpoint and machine; choose the settings that depend on speed and memory."""

from __future__ import annotations

import os
import statistics
import time
from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any, Final, NamedTuple

import numpy as np
import torch

from videoswin._errors import VideoError
from videoswin._text import plural
from videoswin.acceleration import use_training_attention
from videoswin.data.dataset import read_random_clip
from videoswin.data.manifest import Manifest, Sample
from videoswin.inference.backends.pytorch import PRECISIONS
from videoswin.model.config import VideoSwinConfig
from videoswin.model.swin import VideoSwin
from videoswin.training.data import RunInputs
from videoswin.training.learner import natural_precision, training_device
from videoswin.training.lora import set_trainable
from videoswin.training.memory import Trainable, estimate_training_bytes, format_bytes, total_bytes
from videoswin.training.recipe import Run
from videoswin.video.excerpt import excerpt
from videoswin.video.reader import open_video
from videoswin.video.spec import ClipSpec
from videoswin.weights.checkpoint import Checkpoint

SMALL_MODEL: Final = 5_000_000
"""Number of parameters below which a model is small: fast to train on any machine. Swin-T has 28 million."""
DEFAULT_WORKERS: Final = 2
"""Data workers per device, if there are as many cores; on CUDA it is DEFAULT_WORKERS_CUDA."""
DEFAULT_WORKERS_CUDA: Final = 8
TIMED_VIDEOS: Final = 32
"""Number of videos whose duration is read, evenly spread over the list."""
TIMED_CLIPS: Final = 6
"""Number of clips that are decoded to measure the decoding time."""
BATCH: Final = 8
"""Clips in a timed training step of a fast model."""
FAST_STEP_SECONDS: Final = 1.0
"""If a training step of one clip takes less, a step of BATCH clips is timed, too: it is warmed up and faster
per clip."""


class Choice(NamedTuple):
    """Settings and the reason for their values."""

    settings: dict[str, Any]
    """Values by the full name of the setting, such as data.batch_size."""
    reason: str
    """The reason, as the end of a line."""


class Durations(NamedTuple):
    """Durations of videos, or of their labeled parts, in seconds."""

    shortest: float
    """Minimum."""
    median: float
    """Median."""
    longest: float
    """Maximum."""
    fps: float
    """Median frame rate of the videos."""


@dataclass(frozen=True, kw_only=True)
class Speed:
    """Seconds per clip on this machine."""

    decode: float
    """Decoding, in one process."""
    train: float
    """Forward and backward pass, in a batch."""


@dataclass(frozen=True, kw_only=True)
class TrainingContext:
    """The facts from which fine-tuning chooses its settings."""

    checkpoint: Checkpoint
    """The initial checkpoint."""
    classes: tuple[str, ...]
    """Class names."""
    counts: tuple[int, ...]
    """Training videos of each class."""
    videos: int
    """Number of training videos."""
    multi_label: bool
    """Whether a video can have several labels."""
    device: str
    """Device type of the training, as torch names it: cuda, mps, cpu, ..."""
    precision: str
    """The precision that the user set, or the fastest one that the device supports in hardware."""
    cores: int
    """CPU cores of the machine."""
    training: Manifest | None = None
    """The training videos."""
    num_validation: int = 0
    """Number of validation videos."""
    durations: Durations | None = None
    """Durations of the training videos; None if they are unknown."""
    speed: Speed | None = None
    """Speed of this machine; None if it was not measured."""
    memory: int = 8 * 2**30
    """Bytes that a training step may use: half of the device memory; the default if that is unknown."""
    workers: int | None = None
    """Data workers per device that the user set; None chooses them from the device and the cores."""
    devices: int = 1
    """Devices per node."""
    nodes: int = 1
    """Number of nodes."""
    grad_checkpointing: bool = False
    """Whether blocks are recomputed in the backward pass."""
    class_weights: bool = False
    """Whether the loss is weighted so that every class has the same total weight."""

    def with_speed(self, clip: ClipSpec, trainable: Trainable) -> TrainingContext:
        """Return this context with the measured speed for such clips and trainable parameters."""
        if self.training is None:
            return self
        config = self.checkpoint.config
        speed = measure_speed(self.training, config, clip, trainable, self.device, self.precision)
        return replace(self, speed=speed)

    @property
    def processes(self) -> int:
        """Number of processes that share each batch, one per device."""
        return self.devices * self.nodes

    @property
    def per_class(self) -> float:
        """Mean number of training videos per class."""
        return sum(self.counts) / len(self.counts)

    @property
    def num_parameters(self) -> int:
        """Number of parameters of the initial checkpoint."""
        return sum(weight.numel() for weight in self.checkpoint.weights.values())

    @property
    def is_small(self) -> bool:
        """Whether the model has fewer than SMALL_MODEL parameters."""
        return self.num_parameters < SMALL_MODEL

    @property
    def is_slow(self) -> bool:
        """Whether training all parameters on this device would take days."""
        return self.device == "cpu" and not self.is_small


def inspect_context(inputs: RunInputs, settings: Mapping[str, Any]) -> TrainingContext:
    """Return the context of a run on this machine.

    Args:
        inputs: The videos and the initial checkpoint.
        settings: Settings of the user, with their types. Those of `run`, `data.num_workers`,
            `model.grad_checkpointing` and `optimizer.class_weights` are part of the context; by default
            precision, workers and memory follow from the device.

    Raises:
        InputError: The machine does not have the device.
    """
    training, validation = inputs.training, inputs.validation
    assert training is not None
    assert inputs.checkpoint is not None
    label_counts = Counter(label for sample in training.samples for label in sample.labels)
    device = training_device(settings.get("run.device", Run.device))
    # The total, not the free memory: a resumed run must choose the same settings again.
    total = total_bytes(device)
    context = TrainingContext(
        checkpoint=inputs.checkpoint,
        classes=training.classes,
        counts=tuple(label_counts[label] for label in range(len(training.classes))),
        videos=len(training.samples),
        training=training,
        num_validation=len(validation.samples) if validation else 0,
        durations=measure_durations(training.samples),
        multi_label=training.multi_label,
        device=device.type,
        precision=settings.get("run.precision") or natural_precision(device.type),
        cores=os.cpu_count() or 1,
        workers=settings.get("data.num_workers"),
        devices=settings.get("run.devices", Run.devices),
        nodes=settings.get("run.num_nodes", Run.num_nodes),
        grad_checkpointing=settings.get("model.grad_checkpointing", False),
        class_weights=settings.get("optimizer.class_weights", False),
    )
    return context if total is None else replace(context, memory=total // 2)


def measure_durations(samples: tuple[Sample, ...]) -> Durations | None:
    """Return the durations of up to TIMED_VIDEOS of the samples; None if none can be read."""
    seconds, frame_rates = [], []
    for sample in _evenly_spaced(samples, TIMED_VIDEOS):
        with suppress(VideoError), open_video(sample.path) as video:
            part = excerpt(video, sample.start_seconds, sample.end_seconds)
            seconds.append(part.duration_seconds)
            frame_rates.append(video.fps)
    if not seconds:
        return None
    return Durations(min(seconds), statistics.median(seconds), max(seconds), statistics.median(frame_rates))


def measure_speed(
    training: Manifest,
    config: VideoSwinConfig,
    clip: ClipSpec,
    trainable: Trainable,
    device: str,
    precision: str,
) -> Speed | None:
    """Measure the time of decoding a clip and of a training step; return None if no video can be read.

    Args:
        training: The training videos.
        config: The architecture; the timed model has random weights.
        clip: The clips to decode and to train on.
        trainable: Which parameters are trained.
        device: Device type, as torch names it.
        precision: As in recipe.Run.
    """
    decode = _decode_seconds(training.samples, clip)
    if decode is None:
        return None
    return Speed(decode=decode, train=_train_seconds(config, clip, trainable, device, precision))


def _decode_seconds(samples: tuple[Sample, ...], clip: ClipSpec) -> float | None:
    """Return the median time to read one random clip; None if no video can be read."""
    seconds = []
    rng = np.random.default_rng(0)
    for sample in _evenly_spaced(samples, TIMED_CLIPS):
        start = time.perf_counter()
        with suppress(VideoError), open_video(sample.path) as video:
            read_random_clip(excerpt(video, sample.start_seconds, sample.end_seconds), clip, rng)
            seconds.append(time.perf_counter() - start)
    return statistics.median(seconds) if seconds else None


def _train_seconds(
    config: VideoSwinConfig, clip: ClipSpec, trainable: Trainable, device: str, precision: str
) -> float:
    """Return the time of a forward and backward pass per clip."""
    dtype = PRECISIONS[precision]
    with torch.random.fork_rng():
        model = VideoSwin(config)
        set_trainable(model, trainable, 8)
        model.to(device).train()
        use_training_attention(model, device, dtype)

        def time_step(count: int) -> float:
            shape = (count, config.in_channels, clip.frames, clip.size, clip.size)
            clips = torch.randn(shape, device=device)
            start = time.perf_counter()
            with torch.autocast(device, dtype, enabled=precision != "fp32"):
                loss = model(clips).float().logsumexp(1).sum()
            loss.backward()
            loss.item()  # waits for the device
            return time.perf_counter() - start

        single = time_step(1)
        return time_step(BATCH) / BATCH if single < FAST_STEP_SECONDS else single


def _evenly_spaced(samples: tuple[Sample, ...], count: int) -> list[Sample]:
    """Return up to `count` of the samples, evenly spaced."""
    indices = np.linspace(0, len(samples) - 1, min(count, len(samples))).round().astype(int)
    return [samples[index] for index in dict.fromkeys(indices.tolist())]


def choose_precision(context: TrainingContext) -> Choice:
    """Choose the precision and the number of data workers."""
    fastest, workers = natural_precision(context.device), _default_workers(context)
    settings = {"run.precision": context.precision, "data.num_workers": num_workers(context)}
    set_by_user = [
        name
        for name, is_default in (
            ("run.precision", context.precision == fastest),
            ("data.num_workers", settings["data.num_workers"] == workers),
        )
        if not is_default
    ]
    reason = f"{fastest} is the fastest precision that {context.device} supports in hardware"
    reason += f"; {plural(context.cores, 'CPU core')}"
    return Choice(settings, f"you set {' and '.join(set_by_user)}: {reason}" if set_by_user else reason)


def choose_num_repeats(context: TrainingContext) -> tuple[int, str]:
    """Choose the number of clips per decoded video so that training does not wait for decoding.

    Returns:
        1, 2 or 4, and the reason, which continues a sentence; the reason is empty without a measured speed.
    """
    speed = context.speed
    if speed is None or context.videos < 4:
        return 1, ""
    decode_per_train = speed.decode / decoding_processes(context) / speed.train
    num_repeats = 4 if decode_per_train > 2 else 2 if decode_per_train > 1 else 1
    return num_repeats, (
        f", {plural(num_repeats, 'clip')} of each: decoding a clip takes {1000 * speed.decode:.0f} ms, a "
        f"training step {1000 * speed.train:.0f} ms per clip"
    )


def num_workers(context: TrainingContext) -> int:
    """Return the data workers per device: those that the user set, or the default for device and cores."""
    return _default_workers(context) if context.workers is None else context.workers


def decoding_processes(context: TrainingContext) -> int:
    """Return how many processes per device decode in parallel; without workers the main process decodes."""
    return max(1, min(num_workers(context), context.cores // context.devices))


def choose_grad_accum_steps(
    context: TrainingContext, clip: ClipSpec, trainable: Trainable, batch_size: int, num_repeats: int
) -> Choice:
    """Choose the number of micro-batches so that a training step fits into memory, by estimate.

    Args:
        context: Facts about the data, the model and the machine.
        clip: Sampling and size of the clips.
        trainable: Parameters that are trained.
        batch_size: Clips per step, over all devices.
        num_repeats: Clips from each decoded video; a micro-batch of a device is a multiple of it.
    """
    clips, steps = batch_size // context.processes, 1
    while (
        batch_size % (2 * steps * num_repeats * context.processes) == 0
        and _step_bytes(context, clip, trainable, clips // steps) > context.memory
    ):
        steps *= 2
    needed = format_bytes(_step_bytes(context, clip, trainable, clips // steps))
    reason = f"a micro-batch of {plural(clips // steps, 'clip')} takes about {needed} of memory"
    return Choice({"run.grad_accum_steps": steps}, reason)


def _default_workers(context: TrainingContext) -> int:
    return min(DEFAULT_WORKERS_CUDA if context.device == "cuda" else DEFAULT_WORKERS, context.cores)


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
