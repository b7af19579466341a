"""Augment a training clip, with the same random change for all its frames: pure functions on uint8 frames.

T frames, H height, W width, S side of the square crop. Frames are (T, 3, H, W), channels last in memory.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final, Literal, get_args

from numpy.random import Generator
from torch import Tensor
from torch.nn import functional

from videoswin.video.imgaug_policy import IMGAUG_OPERATIONS, MAX_MAGNITUDE, imgaug_rand_augment
from videoswin.video.rand_augment import jitter_color, rand_augment
from videoswin.video.views import resize_short_side

Policy = Literal["timm", "imgaug"]


@dataclass(frozen=True, kw_only=True)
class ClipAugment:
    """Augmentation of training clips; each random change is the same for all frames of a clip."""

    short_side: int | None = None
    """Shorter side in pixels before cropping, as in the official pipeline; None crops the decoded frame."""
    scale: tuple[float, float] = (0.08, 1.0)
    """Range of the area of a random crop, as a fraction of the area of the frame, > 0 and <= 1."""
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    """Range of the aspect ratio (width / height) of a random crop, > 0."""
    hflip: float = 0.5
    """Probability of a horizontal flip, 0 to 1."""
    flip_pairs: tuple[tuple[str, str], ...] = ()
    """Pairs of labels that are swapped when a clip is flipped, such as ("pan left", "pan right")."""
    color_jitter: float = 0.0
    """Largest relative change of brightness, contrast and saturation, 0 to 1; a quarter of it for hue."""
    rand_augment: int = 0
    """Number of RandAugment operations per clip; each is applied with probability 0.5 by policy "timm"."""
    rand_magnitude: float = 7.0
    """Magnitude of RandAugment, 0 to 10 as in timm, or 0 to 30 as in imgaug."""
    rand_policy: Policy = "timm"
    """Library whose RandAugment is used; "imgaug" also flips half of the clips, regardless of `hflip`."""
    random_erasing: float = 0.0
    """Probability of random erasing, with the same rectangle in all frames, 0 to 1."""

    def __post_init__(self) -> None:
        for name in ("hflip", "color_jitter", "random_erasing"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must be from 0 to 1, got {getattr(self, name)}")
        if self.rand_policy not in get_args(Policy):
            choices = ", ".join(get_args(Policy))
            raise ValueError(f"rand_policy must be one of {choices}, got {self.rand_policy!r}")
        most = MAX_MAGNITUDE if self.rand_policy == "imgaug" else 10
        if not 0 <= self.rand_magnitude <= most:
            raise ValueError(f"rand_magnitude must be from 0 to {most}, got {self.rand_magnitude}")
        if self.rand_policy == "imgaug" and self.rand_augment > len(IMGAUG_OPERATIONS):
            raise ValueError(
                f"rand_augment must be at most {len(IMGAUG_OPERATIONS)}, got {self.rand_augment}"
            )
        if not 0 < self.scale[0] <= self.scale[1] <= 1:
            raise ValueError(f"scale must be (min, max) with 0 < min <= max <= 1, got {self.scale}")
        if not 0 < self.ratio[0] <= self.ratio[1]:
            raise ValueError(f"ratio must be (min, max) with 0 < min <= max, got {self.ratio}")


def augment_clip(
    frames_thwc: Tensor, size: int, plan: ClipAugment, rng: Generator, *, antialias: bool
) -> tuple[Tensor, bool]:
    """Augment decoded frames: resize, crop, flip, color jitter and RandAugment, in this order.

    Random erasing needs normalized values and is applied later, in training/losses.py.

    Args:
        frames_thwc: uint8 (T, H, W, 3).
        size: Side of the crop in pixels, S.
        plan: The augmentation.
        rng: Source of all random choices.
        antialias: Apply a low-pass filter when downscaling.

    Returns:
        A clip, uint8 (3, T, S, S), as a view of channels-last memory, and whether it is flipped.
    """
    if plan.short_side is not None:
        frames_thwc = resize_short_side(frames_thwc, plan.short_side, antialias)
    height, width = frames_thwc.shape[1:3]
    top, left, height, width = random_crop_box(height, width, plan.scale, plan.ratio, rng)
    frames_tchw = frames_thwc[:, top : top + height, left : left + width].permute(0, 3, 1, 2)
    frames_tchw = functional.interpolate(
        frames_tchw, size=(size, size), mode="bilinear", align_corners=False, antialias=antialias
    )  # (T, 3, S, S)
    mirrored = rng.random() < plan.hflip
    if mirrored:
        frames_tchw = frames_tchw.flip(3)
    if plan.color_jitter > 0:
        frames_tchw = jitter_color(frames_tchw, plan.color_jitter, rng)
    if plan.rand_augment > 0:
        policy = imgaug_rand_augment if plan.rand_policy == "imgaug" else rand_augment
        frames_tchw = policy(frames_tchw, plan.rand_augment, plan.rand_magnitude, rng)
    return frames_tchw.transpose(0, 1), mirrored


def random_crop_box(
    height: int, width: int, area: tuple[float, float], ratio: tuple[float, float], rng: Generator
) -> tuple[int, int, int, int]:
    """Return (top, left, height, width) of a random crop with uniform area and log-uniform aspect ratio.

    If none of ten attempts fits into the frame, the crop is the largest center crop with a ratio in range.

    Args:
        height: Height of the frame in pixels.
        width: Width of the frame in pixels.
        area: Range of the area as a fraction of the area of the frame.
        ratio: Range of width / height.
        rng: Source of all random choices.

    Source: RandomResizedCrop in torchvision.transforms. Video-Swin-Transformer uses a square center crop
    after ten attempts.
    """
    for _ in range(10):
        pixels = height * width * rng.uniform(*area)
        shape = math.exp(rng.uniform(math.log(ratio[0]), math.log(ratio[1])))
        wide, high = round(math.sqrt(pixels * shape)), round(math.sqrt(pixels / shape))
        if 0 < wide <= width and 0 < high <= height:
            top, left = rng.integers(height - high + 1), rng.integers(width - wide + 1)
            return int(top), int(left), high, wide
    high, wide = min(height, round(width / ratio[0])), min(width, round(height * ratio[1]))
    return (height - high) // 2, (width - wide) // 2, high, wide


def reads_direction(label: str) -> bool:
    """Return whether a class name has a direction: left, right or a sense of rotation.

    Such classes change under a horizontal flip. Only words are compared: "playing right back" is a match too.
    """
    return any(word in _MIRRORED for word in _split_words(label))


def mirrored_pairs(labels: Sequence[str]) -> tuple[tuple[str, str], ...]:
    """Return pairs of class names that differ only in their direction, as a suggestion for `flip_pairs`.

    Directions are left, right and senses of rotation. Only words are compared, as in `reads_direction`.
    """
    by_words = {_split_words(label): label for label in labels}
    pairs: list[tuple[str, str]] = []
    for words, label in by_words.items():
        other = by_words.get(tuple(_MIRRORED.get(word, word) for word in words), label)
        if other != label and (other, label) not in pairs:
            pairs.append((label, other))
    return tuple(pairs)


_PAIRS = (
    ("left", "right"),
    ("leftward", "rightward"),
    ("leftwards", "rightwards"),
    ("clockwise", "counterclockwise"),
)
_MIRRORED: Final[Mapping[str, str]] = MappingProxyType(dict(_PAIRS) | {right: left for left, right in _PAIRS})


def _split_words(label: str) -> tuple[str, ...]:
    """Split a class name into lower-case words and numbers: TurnLeft and turn_left -> ("turn", "left")."""
    spaced = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", label).lower()
    normalized = re.sub(r"(anti|counter)[\s_-]*clockwise", "counterclockwise", spaced)
    return tuple(re.findall(r"[^\W\d_]+|\d+", normalized))
