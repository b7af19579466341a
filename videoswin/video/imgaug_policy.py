"""RandAugment of imgaug 0.4.0, which was used to train the published Something-Something model.

Frames are (T, 3, H, W) uint8, channels last in memory. Regardless of its config, imgaug extends the policy of
the paper: every clip is flipped with probability 0.5, and up to magnitude / 224 is cropped off each side.

Source: imgaug/augmenters/collections.py and pillike.py, used by the class Imgaug of Video-Swin-Transformer
(mmaction/datasets/pipelines/augmentations.py), which applies the same change to all frames of a clip.
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
"""Largest magnitude of the policy."""


def imgaug_rand_augment(frames: Tensor, operations: int, magnitude: float, rng: Generator) -> Tensor:
    """Flip half of the clips, crop slightly, and apply random different operations of IMGAUG_OPERATIONS.

    Args:
        frames: (T, 3, H, W) uint8, channels last in memory.
        operations: Number of operations, applied in random order.
        magnitude: Strength, 0 to MAX_MAGNITUDE.
        rng: Source of all random choices, which are the same for all frames.

    Returns:
        The same shape and type. Labels must not be swapped after a flip, as in the published training.
    """
    if rng.random() < 0.5:
        frames = frames.flip(3).contiguous(memory_format=torch.channels_last)
    frames = _random_crop(frames, magnitude, rng)
    for name in rng.choice(list(IMGAUG_OPERATIONS), operations, replace=False):
        frames = IMGAUG_OPERATIONS[name](frames, magnitude / MAX_MAGNITUDE, rng)
    return frames


def _random_crop(frames: Tensor, magnitude: float, rng: Generator) -> Tensor:
    """Crop up to magnitude / 224 of the length off each side, and resize to the original size."""
    height, width = frames.shape[-2:]
    fractions = rng.uniform(0, magnitude, size=4) / 224
    top, bottom = (round(fraction * height) for fraction in fractions[:2])
    left, right = (round(fraction * width) for fraction in fractions[2:])
    inner = frames[..., top : height - bottom, left : width - right]
    resized = F.interpolate(inner, size=(height, width), mode="bilinear", align_corners=False)
    return resized.contiguous(memory_format=torch.channels_last)


def _random_factor(level: float, rng: Generator) -> float:
    return 1 + _random_sign(0.9 * level, rng)


def _random_sign(amount: float, rng: Generator) -> float:
    return amount if rng.random() < 0.5 else -amount


def rotate(frames: Tensor, degrees: float) -> Tensor:
    """Rotate clockwise about the center."""
    height, width = frames.shape[-2:]
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    x, y = width / 2, height / 2
    return _warp_nearest(frames, ((cos, sin, x - cos * x - sin * y), (-sin, cos, y + sin * x - cos * y)))


def shear_x(frames: Tensor, radians: float) -> Tensor:
    """Shift each row to the right in proportion to its distance from the top."""
    # imgaug uses tanh instead of tan.
    return _warp_nearest(frames, ((1.0, -math.tanh(radians), 0.0), (0.0, 1.0, 0.0)))


def shear_y(frames: Tensor, radians: float) -> Tensor:
    """Shift each column down in proportion to its distance from the left edge."""
    return _warp_nearest(frames, ((1.0, 0.0, 0.0), (-math.tanh(radians), 1.0, 0.0)))


def translate_x(frames: Tensor, fraction: float) -> Tensor:
    """Shift to the right by a fraction of the width."""
    return _warp_nearest(frames, ((1.0, 0.0, -fraction * frames.shape[-1]), (0.0, 1.0, 0.0)))


def translate_y(frames: Tensor, fraction: float) -> Tensor:
    """Shift down by a fraction of the height."""
    return _warp_nearest(frames, ((1.0, 0.0, 0.0), (0.0, 1.0, -fraction * frames.shape[-2])))


def blur(frames: Tensor) -> Tensor:
    """Apply Pillow's BLUR: the mean of the 16 border pixels of a 5x5 square; the outer 2 pixels are kept."""
    kernel = torch.full((3, 1, 5, 5), 1 / 16)
    kernel[:, :, 1:4, 1:4] = 0
    changed = frames.clone()
    changed[..., 2:-2, 2:-2] = F.conv2d(frames.to(torch.float32), kernel, groups=3).add_(0.5).floor_()
    return changed


def cutout(frames: Tensor, fraction: float, rng: Generator) -> Tensor:
    """Fill a box at a random position with gray; its sides are a fraction of the sides of the frame.

    Args:
        frames: (..., H, W) uint8.
        fraction: Sides of the box relative to those of the frame, 0 to 1.
        rng: Random generator.
    """
    height, width = frames.shape[-2:]
    x, y = rng.random() * width, rng.random() * height
    half_x, half_y = fraction * width / 2, fraction * height / 2
    changed = frames.clone()
    rows = slice(max(int(y - half_y), 0), int(y + half_y))
    changed[..., rows, max(int(x - half_x), 0) : int(x + half_x)] = FILL
    return changed


def _warp_nearest(frames: Tensor, matrix: tuple[tuple[float, float, float], ...]) -> Tensor:
    """Set the pixel at (x, y) to the one at matrix @ (x, y, 1), or gray outside the frame, as in Pillow."""
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
        "rotate": lambda frames, level, rng: rotate(frames, _random_sign(30 * level, rng)),
        "posterize": lambda frames, level, rng: posterize(frames, 8 - int(6 * level)),
        "solarize": lambda frames, level, rng: solarize(frames, 256 - int(256 * level)),
        "saturation": lambda frames, level, rng: adjust_saturation(frames, _random_factor(level, rng)),
        "contrast": lambda frames, level, rng: adjust_contrast(frames, _random_factor(level, rng)),
        "brightness": lambda frames, level, rng: adjust_brightness(frames, _random_factor(level, rng)),
        "sharpness": lambda frames, level, rng: adjust_sharpness(frames, _random_factor(level, rng)),
        "shear x": lambda frames, level, rng: shear_x(frames, _random_sign(0.3 * level, rng)),
        "shear y": lambda frames, level, rng: shear_y(frames, _random_sign(0.3 * level, rng)),
        "translate x": lambda frames, level, rng: translate_x(frames, _random_sign(0.33 * level, rng)),
        "translate y": lambda frames, level, rng: translate_y(frames, _random_sign(0.33 * level, rng)),
        "cutout": lambda frames, level, rng: cutout(frames, 20 / 32 * level, rng),
        "blur": lambda frames, level, rng: blur(frames),
        "smooth": lambda frames, level, rng: adjust_sharpness(frames, 0.0),
    }
)
"""Name -> function of frames, level from 0 to 1, and the generator for a random sign or position."""
