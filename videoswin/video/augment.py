"""Random changes to a training clip, the same for all its frames: short pure functions on uint8 frames.

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
from videoswin.video.transforms import resize_short_side

Policy = Literal["timm", "imgaug"]


@dataclass(frozen=True, kw_only=True)
class ClipAugment:
    """What is done to a training clip, the same to all its frames."""

    short_side: int | None = None
    """Resize to this before cropping, as the official pipeline does; None crops the decoded frame."""
    area: tuple[float, float] = (0.08, 1.0)
    """Part of the frame's area that a random crop takes."""
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    """Width over height of that crop."""
    flip: float = 0.5
    """Probability of mirroring left and right."""
    flip_pairs: tuple[tuple[str, str], ...] = ()
    """Labels that trade places when a clip is mirrored, such as ("pan left", "pan right")."""
    color_jitter: float = 0.0
    """Largest relative change of brightness, contrast and saturation; hue changes by a quarter of it."""
    rand_augment: int = 0
    """Operations of RandAugment drawn for each clip; under the policy of timm, half of them are done."""
    rand_magnitude: float = 7.0
    """Their strength: 0 to 10 as in timm, 0 to 30 as in imgaug."""
    rand_policy: Policy = "timm"
    """Whose operations and strengths; that of imgaug also mirrors half of the clips, whatever `flip` is."""
    erasing: float = 0.0
    """Probability of blanking a rectangle, the same in all frames."""

    def __post_init__(self) -> None:
        for name in ("flip", "color_jitter", "erasing"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} is {getattr(self, name)}, wanted 0 to 1")
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
        if not 0 < self.area[0] <= self.area[1] <= 1:
            raise ValueError(f"area is {self.area}, wanted the least and the most, above 0 and up to 1")
        if not 0 < self.ratio[0] <= self.ratio[1]:
            raise ValueError(f"ratio is {self.ratio}, wanted the least and the most, above 0")


def augment_clip(
    frames_thwc: Tensor, size: int, plan: ClipAugment, rng: Generator, *, antialias: bool
) -> tuple[Tensor, bool]:
    """Decoded frames (T, H, W, 3) uint8 -> a training clip (3, T, S, S) uint8, and whether it is mirrored.

    Resize, crop, mirror, color jitter, RandAugment, in this order, as far as `plan` has them; erasing needs
    normalized floats and waits for training/batch_augment.py. The clip is a view of channels-last memory.
    """
    if plan.short_side is not None:
        frames_thwc = resize_short_side(frames_thwc, plan.short_side, antialias)
    height, width = frames_thwc.shape[1:3]
    top, left, height, width = random_crop_box(height, width, plan.area, plan.ratio, rng)
    frames_tchw = frames_thwc[:, top : top + height, left : left + width].permute(0, 3, 1, 2)
    frames_tchw = functional.interpolate(
        frames_tchw, size=(size, size), mode="bilinear", align_corners=False, antialias=antialias
    )  # (T, 3, S, S)
    mirrored = rng.random() < plan.flip
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
    """(top, left, height, width) of a part of a frame: its area uniform, its ratio uniform in the logarithm.

    If none of ten tries fits the frame, the largest central box of a ratio in range. As RandomResizedCrop in
    torchvision.transforms; that of Video-Swin-Transformer differs in the last resort, a central square.
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
    """Whether a class name says left, right or a sense of rotation, none of which survives mirroring.

    It goes by words alone: "playing right back" counts too.
    """
    return any(word in _MIRRORED for word in _words(label))


def mirrored_pairs(labels: Sequence[str]) -> tuple[tuple[str, str], ...]:
    """Class names that become each other with every left and right, or sense of rotation, exchanged.

    A proposal for `flip_pairs`; like reads_direction it goes by words alone.
    """
    by_words = {_words(label): label for label in labels}
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


def _words(label: str) -> tuple[str, ...]:
    """The words and numbers of a class name in lower case: of TurnLeft and turn_left ("turn", "left")."""
    apart = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", label).lower()
    one_spelling = re.sub(r"(anti|counter)[\s_-]*clockwise", "counterclockwise", apart)
    return tuple(re.findall(r"[^\W\d_]+|\d+", one_spelling))
