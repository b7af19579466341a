"""RandAugment for clips: a few operations out of a table, drawn once and done to all frames alike.

Frames are (T, 3, H, W) uint8, channels last in memory. Operations, strengths and chances are those of timm's
`rand-m7-n4-mstd0.5-inc1`, with which MViTv2 and VideoMAE were trained; see timm.data.auto_augment. Pixels are
computed as in torchvision.transforms.v2.functional, and what was outside the frame is gray.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Final, NamedTuple

import torch
import torch.nn.functional as F
from numpy.random import Generator
from torch import Tensor

from videoswin.video.color import (
    adjust_brightness,
    adjust_contrast,
    adjust_saturation,
    adjust_sharpness,
    autocontrast,
    equalize,
    invert,
    posterize,
    solarize,
    solarize_add,
)

FILL: Final = 128
"""Gray level of what was outside the frame."""
CHANCE: Final = 0.5
"""Probability that an operation that was drawn is done."""
MAGNITUDE_SPREAD: Final = 0.5
"""Standard deviation of the magnitude from one operation to the next."""


def rand_augment(frames: Tensor, operations: int, magnitude: float, rng: Generator) -> Tensor:
    """(T, 3, H, W) uint8 after `operations` draws from OPERATIONS, each done or left out by a fair coin.

    `magnitude` is 0 to 10. The same operations, strengths and signs for every frame.
    """
    names = list(OPERATIONS)
    for name in rng.choice(names, operations):
        if rng.random() < CHANCE:
            level = min(max(rng.normal(magnitude, MAGNITUDE_SPREAD), 0.0), 10.0) / 10
            sign = -1 if rng.random() < 0.5 else 1
            frames = OPERATIONS[name].apply(frames, OPERATIONS[name].amount(level, sign))
    return frames


class Operation(NamedTuple):
    """What is done to frames, and how strongly."""

    apply: Callable[[Tensor, float], Tensor]
    weakest: float = 0.0
    """Amount at magnitude 0."""
    strongest: float = 0.0
    """Amount at magnitude 10."""
    both_ways: bool = False
    """Whether the amount may as well lie as far on the other side of the weakest."""

    def amount(self, level: float, sign: int) -> float:
        """The amount at `level` 0 to 1; `sign` is 1 or -1."""
        return self.weakest + (sign if self.both_ways else 1) * level * (self.strongest - self.weakest)


def rotate(frames: Tensor, degrees: float) -> Tensor:
    """Turned about the center, counterclockwise to the eye, bilinear."""
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    return _looked_up(frames, ((cos, -sin, 0.0), (sin, cos, 0.0)))


def shear_x(frames: Tensor, slope: float) -> Tensor:
    """Each row moved left by `slope` times its distance from the top, bilinear."""
    return _looked_up(frames, ((1.0, slope, slope * frames.shape[-2] / 2), (0.0, 1.0, 0.0)))


def shear_y(frames: Tensor, slope: float) -> Tensor:
    """Each column moved up by `slope` times its distance from the left, bilinear."""
    return _looked_up(frames, ((1.0, 0.0, 0.0), (slope, 1.0, slope * frames.shape[-1] / 2)))


def translate_x(frames: Tensor, part: float) -> Tensor:
    """Moved right by `part` of the width, in whole pixels, so that none is mixed with another."""
    right = round(part * frames.shape[-1])
    return F.pad(frames, (right, -right), value=FILL)


def translate_y(frames: Tensor, part: float) -> Tensor:
    """Moved down by `part` of the height, in whole pixels."""
    down = round(part * frames.shape[-2])
    return F.pad(frames, (0, 0, down, -down), value=FILL)


def _looked_up(frames: Tensor, matrix: tuple[tuple[float, float, float], ...]) -> Tensor:
    """Frames whose pixel at (x, y) is looked up at matrix @ (x, y, 1), in pixels from the center.

    All frames and channels share one grid: they are folded into the channels of one picture.
    """
    num_frames, _, height, width = frames.shape
    x = torch.arange(width) - (width - 1) / 2
    y = torch.arange(height).unsqueeze(1) - (height - 1) / 2
    (xx, xy, x0), (yx, yy, y0) = matrix
    grid = torch.stack([(xx * x + xy * y + x0) * 2 / width, (yx * x + yy * y + y0) * 2 / height], dim=-1)
    # Without the fill, so that the zeros found outside become it.
    picture = frames.reshape(1, num_frames * 3, height, width).to(torch.float32).sub_(FILL)
    picture = F.grid_sample(picture, grid[None], mode="bilinear", padding_mode="zeros", align_corners=False)
    levels = picture.add_(FILL).round_().to(torch.uint8).view(num_frames, 3, height, width)
    return levels.contiguous(memory_format=torch.channels_last)


OPERATIONS: Final[Mapping[str, Operation]] = MappingProxyType(
    {
        "autocontrast": Operation(lambda frames, _: autocontrast(frames)),
        "equalize": Operation(lambda frames, _: equalize(frames)),
        "invert": Operation(lambda frames, _: invert(frames)),
        "rotate": Operation(rotate, 0, 30, both_ways=True),
        "posterize": Operation(lambda frames, bits: posterize(frames, math.ceil(bits)), 4, 0),
        "solarize": Operation(solarize, 256, 0),
        "solarize add": Operation(lambda frames, amount: solarize_add(frames, int(amount)), 0, 110),
        "saturation": Operation(adjust_saturation, 1, 1.9, both_ways=True),
        "contrast": Operation(adjust_contrast, 1, 1.9, both_ways=True),
        "brightness": Operation(adjust_brightness, 1, 1.9, both_ways=True),
        "sharpness": Operation(adjust_sharpness, 1, 1.9, both_ways=True),
        "shear x": Operation(shear_x, 0, 0.3, both_ways=True),
        "shear y": Operation(shear_y, 0, 0.3, both_ways=True),
        "translate x": Operation(translate_x, 0, 0.45, both_ways=True),
        "translate y": Operation(translate_y, 0, 0.45, both_ways=True),
    }
)
"""Name -> what it does and its amounts at magnitude 0 and 10. Doing nothing is the other side of the coin."""
