"""How fast this machine decodes the videos and learns from them, and how long the videos are."""

from __future__ import annotations

import statistics
import time
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from typing import Final, NamedTuple

import numpy as np
import torch

from videoswin.data.dataset import read_random_clip
from videoswin.data.manifest import Manifest, Sample
from videoswin.kernels.choose import use_fastest_attention
from videoswin.model.config import VideoSwinConfig
from videoswin.model.swin import VideoSwin
from videoswin.training.lora import choose_what_learns
from videoswin.training.memory import Trainable
from videoswin.video.excerpt import excerpt
from videoswin.video.reader import VideoError, open_video
from videoswin.video.spec import ClipSpec

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
    seconds, rates = [], []
    for sample in _spread(samples, TIMED_VIDEOS):
        with suppress(VideoError), open_video(sample.path) as video:
            part = excerpt(video, sample.start_seconds, sample.end_seconds)
            seconds.append(part.duration_seconds)
            rates.append(video.fps)
    if not seconds:
        return None
    return Durations(min(seconds), statistics.median(seconds), max(seconds), statistics.median(rates))


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
        choose_what_learns(model, trainable, 8)
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
