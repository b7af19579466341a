"""RandAugment as imgaug 0.4.0 does it, with which the published Something-Something model was trained.

Frames are (T, 3, H, W) uint8, channels last in memory. What imgaug adds to the paper's policy, whatever its
config says: every clip is mirrored with probability 1/2, and up to magnitude / 224 is cropped off each side.
Source: imgaug/augmenters/collections.py and pillike.py, run by the class Imgaug of Video-Swin-Transformer
(mmaction/datasets/pipelines/augmentations.py), which does the same to all frames of a clip.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Final

import torch
import torch.nn.functional as F
from numpy.random import Generator
from torch import Tensor

from videoswin.video.rand_augment import (
    FILL,
    adjust_brightness,
    adjust_contrast,
    adjust_saturation,
    adjust_sharpness,
    autocontrast,
    equalize,
    invert,
    posterize,
    solarize,
)

MAX_MAGNITUDE: Final = 30


def imgaug_rand_augment(frames: Tensor, operations: int, magnitude: float, rng: Generator) -> Tensor:
    """Mirror half of the clips, crop a little, and apply `operations` different ones of IMGAUG_OPERATIONS.

    Args:
        frames: (T, 3, H, W) uint8, channels last in memory.
        operations: How many are applied, in random order.
        magnitude: Strength, 0 to MAX_MAGNITUDE.
        rng: Draws once for all frames.

    Returns:
        The same shape and type. Labels must not follow the mirroring: those of the published model did not.
    """
    if rng.random() < 0.5:
        frames = frames.flip(3).contiguous(memory_format=torch.channels_last)
    frames = _cropped(frames, magnitude, rng)
    for name in rng.choice(list(IMGAUG_OPERATIONS), operations, replace=False):
        frames = IMGAUG_OPERATIONS[name](frames, magnitude / MAX_MAGNITUDE, rng)
    return frames


def _cropped(frames: Tensor, magnitude: float, rng: Generator) -> Tensor:
    """Up to `magnitude` of 224 pixels off each side, and back to the same size."""
    height, width = frames.shape[-2:]
    parts = rng.uniform(0, magnitude, size=4) / 224
    top, bottom = (round(part * height) for part in parts[:2])
    left, right = (round(part * width) for part in parts[2:])
    inner = frames[..., top : height - bottom, left : width - right]
    resized = F.interpolate(inner, size=(height, width), mode="bilinear", align_corners=False)
    return resized.contiguous(memory_format=torch.channels_last)


def _factor(level: float, rng: Generator) -> float:
    return 1 + _signed(0.9 * level, rng)


def _signed(amount: float, rng: Generator) -> float:
    return amount if rng.random() < 0.5 else -amount


def rotate(frames: Tensor, degrees: float) -> Tensor:
    """Rotated clockwise about the center."""
    height, width = frames.shape[-2:]
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    x, y = width / 2, height / 2
    return _nearest(frames, ((cos, sin, x - cos * x - sin * y), (-sin, cos, y + sin * x - cos * y)))


def shear_x(frames: Tensor, radians: float) -> Tensor:
    """Each row moved right in proportion to its distance from the top."""
    return _nearest(frames, ((1.0, -math.tanh(radians), 0.0), (0.0, 1.0, 0.0)))  # imgaug has tanh for tan


def shear_y(frames: Tensor, radians: float) -> Tensor:
    """Each column moved down in proportion to its distance from the left."""
    return _nearest(frames, ((1.0, 0.0, 0.0), (-math.tanh(radians), 1.0, 0.0)))


def translate_x(frames: Tensor, fraction: float) -> Tensor:
    """Moved right by a fraction of the width."""
    return _nearest(frames, ((1.0, 0.0, -fraction * frames.shape[-1]), (0.0, 1.0, 0.0)))


def translate_y(frames: Tensor, fraction: float) -> Tensor:
    """Moved down by a fraction of the height."""
    return _nearest(frames, ((1.0, 0.0, 0.0), (0.0, 1.0, -fraction * frames.shape[-2])))


def blur(frames: Tensor) -> Tensor:
    """Pillow's BLUR: the mean of the 16 pixels on the edge of a 5x5 square; the outermost two pixels stay."""
    kernel = torch.full((3, 1, 5, 5), 1 / 16)
    kernel[:, :, 1:4, 1:4] = 0
    changed = frames.clone()
    changed[..., 2:-2, 2:-2] = F.conv2d(frames.to(torch.float32), kernel, groups=3).add_(0.5).floor_()
    return changed


def cutout(frames: Tensor, fraction: float, rng: Generator) -> Tensor:
    """One square whose side is a fraction of the frame's becomes gray, centered anywhere in the frame."""
    height, width = frames.shape[-2:]
    x, y = rng.random() * width, rng.random() * height
    half_x, half_y = fraction * width / 2, fraction * height / 2
    changed = frames.clone()
    rows = slice(max(int(y - half_y), 0), int(y + half_y))
    changed[..., rows, max(int(x - half_x), 0) : int(x + half_x)] = FILL
    return changed


def _nearest(frames: Tensor, matrix: tuple[tuple[float, float, float], ...]) -> Tensor:
    """Frames whose pixel at (x, y) is that at matrix @ (x, y, 1), gray where there is none, as in Pillow."""
    num_frames, _, height, width = frames.shape
    x = torch.arange(width, dtype=torch.float64) + 0.5
    y = torch.arange(height, dtype=torch.float64).unsqueeze(1) + 0.5
    (xx, xy, x0), (yx, yy, y0) = matrix
    column, row = (xx * x + xy * y + x0).floor().long(), (yx * x + yy * y + y0).floor().long()  # (H, W)
    outside = (column < 0) | (column >= width) | (row < 0) | (row >= height)
    index = row.clamp_(0, height - 1) * width + column.clamp_(0, width - 1)
    pixels = frames.permute(0, 2, 3, 1).reshape(num_frames, height * width, 3)
    moved = pixels.index_select(1, index.flatten())  # (T, H * W, 3)
    moved[:, outside.flatten()] = FILL
    return moved.view(num_frames, height, width, 3).permute(0, 3, 1, 2)


IMGAUG_OPERATIONS: Final[Mapping[str, Callable[[Tensor, float, Generator], Tensor]]] = MappingProxyType(
    {
        "identity": lambda frames, level, rng: frames,
        "autocontrast": lambda frames, level, rng: autocontrast(frames),
        "equalize": lambda frames, level, rng: equalize(frames),
        "invert": lambda frames, level, rng: invert(frames),
        "rotate": lambda frames, level, rng: rotate(frames, _signed(30 * level, rng)),
        "posterize": lambda frames, level, rng: posterize(frames, 8 - int(6 * level)),
        "solarize": lambda frames, level, rng: solarize(frames, 256 - int(256 * level)),
        "saturation": lambda frames, level, rng: adjust_saturation(frames, _factor(level, rng)),
        "contrast": lambda frames, level, rng: adjust_contrast(frames, _factor(level, rng)),
        "brightness": lambda frames, level, rng: adjust_brightness(frames, _factor(level, rng)),
        "sharpness": lambda frames, level, rng: adjust_sharpness(frames, _factor(level, rng)),
        "shear x": lambda frames, level, rng: shear_x(frames, _signed(0.3 * level, rng)),
        "shear y": lambda frames, level, rng: shear_y(frames, _signed(0.3 * level, rng)),
        "translate x": lambda frames, level, rng: translate_x(frames, _signed(0.33 * level, rng)),
        "translate y": lambda frames, level, rng: translate_y(frames, _signed(0.33 * level, rng)),
        "cutout": lambda frames, level, rng: cutout(frames, 20 / 32 * level, rng),
        "blur": lambda frames, level, rng: blur(frames),
        "smooth": lambda frames, level, rng: adjust_sharpness(frames, 0.0),
    }
)
"""Name -> function of frames, the level 0 to 1 and the generator that draws a sign or a place."""
