"""What fine-tuning takes of the machine: precision, data workers, and micro-batches that fit into memory."""

from __future__ import annotations

from typing import Final

from videoswin._text import plural
from videoswin.recipes.situation import Choice, Situation, natural_precision
from videoswin.training.memory import Trainable, estimate_training_bytes, format_bytes
from videoswin.video.spec import ClipSpec

WORKERS: Final = 2
"""Processes that decode for each device, if there are as many cores; on CUDA WORKERS_ON_CUDA."""
WORKERS_ON_CUDA: Final = 8


def precision(situation: Situation) -> Choice:
    """The number format, and the processes that decode."""
    fastest, workers = natural_precision(situation.device), _default_workers(situation)
    settings = {"run.precision": situation.precision, "data.num_workers": num_workers(situation)}
    by_hand = [
        name
        for name, is_own in (
            ("run.precision", situation.precision == fastest),
            ("data.num_workers", settings["data.num_workers"] == workers),
        )
        if not is_own
    ]
    reason = f"{fastest} is the fastest precision that {situation.device} supports in hardware"
    reason += f"; {plural(situation.cores, 'CPU core')}"
    return Choice(settings, f"you set {' and '.join(by_hand)}: {reason}" if by_hand else reason)


def repeats_for(situation: Situation) -> tuple[int, str]:
    """Clips made of a decoded one, as many as keep the model busy, and why."""
    speed = situation.speed
    if speed is None or situation.videos < 4:
        return 1, ""
    waiting = speed.decode / decoding_processes(situation) / speed.learn
    num_repeats = 4 if waiting > 2 else 2 if waiting > 1 else 1
    times = (
        f"decoding a clip takes {1000 * speed.decode:.0f} ms, a training step {1000 * speed.learn:.0f} ms a "
        "clip"
    )
    return num_repeats, f", {plural(num_repeats, 'clip')} of each: {times}"


def num_workers(situation: Situation) -> int:
    """Data workers of each device: those set by hand, or what fits the device and the cores."""
    return _default_workers(situation) if situation.workers is None else situation.workers


def decoding_processes(situation: Situation) -> int:
    """How many processes decode at the same time for each device; without workers it is the trainer's own."""
    return max(1, min(num_workers(situation), situation.cores // situation.devices))


def memory(
    situation: Situation, clip: ClipSpec, trainable: Trainable, batch: int, num_repeats: int
) -> Choice:
    """Micro-batches that fit into the situation's memory, by estimate."""
    clips, parts = batch // situation.processes, 1
    while (
        batch % (2 * parts * num_repeats * situation.processes) == 0
        and _step_bytes(situation, clip, trainable, clips // parts) > situation.memory
    ):
        parts *= 2
    needed = format_bytes(_step_bytes(situation, clip, trainable, clips // parts))
    return Choice(
        {"run.grad_accum_steps": parts}, f"{plural(clips // parts, 'clip')} at a time take about {needed}"
    )


def _default_workers(situation: Situation) -> int:
    return min(WORKERS_ON_CUDA if situation.device == "cuda" else WORKERS, situation.cores)


def _step_bytes(situation: Situation, clip: ClipSpec, trainable: Trainable, clips: int) -> int:
    return estimate_training_bytes(
        situation.checkpoint.config,
        clip,
        clips,
        precision=situation.precision,
        grad_checkpointing=situation.grad_checkpointing,
        trainable=trainable,
        average=False,
        device_type=situation.device,
    )
