"""RandAugment and color operations on uint8 clips (T, 3, H, W), channels last in memory."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Final, NamedTuple

import torch
import torch.nn.functional as F
from numpy.random import Generator
from torch import Tensor

RGB_TO_GRAY = (0.2989, 0.587, 0.114)
"""Weights of R, G and B in a gray level, as in torchvision."""


def jitter_color(frames: Tensor, strength: float, rng: Generator) -> Tensor:
    """Adjust brightness, contrast, saturation and hue by random amounts in random order.

    Args:
        frames: (T, 3, H, W) uint8.
        strength: Factors are from 1 - strength to 1 + strength; the hue shifts by up to strength / 4 of the
            color circle in both directions.
        rng: Source of all random choices, which are the same for all frames.

    Returns:
        The same shape and type.

    Source: ColorJitter in torchvision.transforms.
    """
    factors = rng.uniform(max(0.0, 1 - strength), 1 + strength, size=3)
    shift = rng.uniform(-strength, strength) / 4
    adjustments = (
        (adjust_brightness, factors[0]),
        (adjust_contrast, factors[1]),
        (adjust_saturation, factors[2]),
        (adjust_hue, shift),
    )
    for index in rng.permutation(len(adjustments)):
        adjust, amount = adjustments[index]
        frames = adjust(frames, float(amount))
    return frames


def adjust_brightness(frames: Tensor, factor: float) -> Tensor:
    """Multiply every value by `factor`."""
    return _to_levels(frames.to(torch.float32).mul_(factor))


def adjust_contrast(frames: Tensor, factor: float) -> Tensor:
    """Multiply the difference between every value and the mean gray level of its frame by `factor`."""
    mean = _gray(frames).mean(dim=(1, 2, 3), keepdim=True)  # (T, 1, 1, 1)
    return _to_levels(frames.to(torch.float32).mul_(factor).add_(mean, alpha=1 - factor))


def adjust_saturation(frames: Tensor, factor: float) -> Tensor:
    """Multiply the difference between every value and the gray level of its pixel by `factor`."""
    return _to_levels(frames.to(torch.float32).mul_(factor).add_(_gray(frames), alpha=1 - factor))


def adjust_hue(frames: Tensor, shift: float) -> Tensor:
    """Shift the hue of HSV by a fraction of the color circle; 1/3 turns red into green."""
    red, green, blue = frames.permute(1, 0, 2, 3).contiguous().to(torch.float32)  # (T, H, W) each
    value = torch.maximum(torch.maximum(red, green), blue)
    chroma = value - torch.minimum(torch.minimum(red, green), blue)
    scale = chroma.clamp(min=1.0).reciprocal_()  # levels are integers; a gray pixel has hue 0
    hue = torch.where(
        value == red,
        (green - blue).mul_(scale),
        torch.where(value == green, (blue - red).mul_(scale).add_(2.0), (red - green).mul_(scale).add_(4.0)),
    ).add_(6.0 * shift)  # in sixths of the circle
    shifted = torch.empty_like(frames)
    for channel, offset in enumerate((5.0, 3.0, 1.0)):
        # A channel is the maximum, the minimum or between them, depending on its position on the circle.
        position = hue.add(offset).remainder_(6.0)
        fraction = torch.minimum(position, 4.0 - position).clamp_(0.0, 1.0)
        shifted[:, channel] = torch.addcmul(value, chroma, fraction, value=-1.0).round_()
    return shifted


def adjust_sharpness(frames: Tensor, factor: float) -> Tensor:
    """Multiply the difference between every value and its smoothed value by `factor`.

    Smoothing is a weighted 3x3 mean, with weight 5 for the center and 1 for the others. Pixels at the edges,
    and frames smaller than 3x3, are kept.
    """
    if min(frames.shape[-2:]) < 3:
        return frames
    kernel = torch.full((3, 1, 3, 3), 1 / 13)
    kernel[:, :, 1, 1] = 5 / 13
    changed = frames.to(torch.float32)
    blurred = F.conv2d(changed, kernel, groups=3).round_()
    inner = changed[..., 1:-1, 1:-1]
    inner.add_(blurred.sub_(inner), alpha=1 - factor)
    return _to_levels(changed)


def posterize(frames: Tensor, bits: int) -> Tensor:
    """Keep the `bits` highest bits of every value, 0 to 8."""
    return frames & (0xFF << (8 - bits) & 0xFF)


def solarize(frames: Tensor, threshold: float) -> Tensor:
    """Invert values >= `threshold`."""
    return frames ^ frames.ge(threshold).to(torch.uint8).mul_(255)  # no torch.where, which is slow on bytes


def solarize_add(frames: Tensor, amount: int) -> Tensor:
    """Add `amount`, 0 to 127, to values below 128. Source: timm.data.auto_augment."""
    return frames + frames.lt(128).to(torch.uint8).mul_(amount)


def invert(frames: Tensor) -> Tensor:
    """Invert every value: 255 - value."""
    return ~frames


def autocontrast(frames: Tensor) -> Tensor:
    """Stretch every channel of every frame to 0..255; a constant channel is kept."""
    lines = frames.permute(0, 2, 3, 1)  # (T, H, W, 3), reduced over H, then W, in memory order
    least = lines.amin(1).amin(1).to(torch.float32)[:, :, None, None]  # (T, 3, 1, 1)
    most = lines.amax(1).amax(1).to(torch.float32)[:, :, None, None]
    flat = most == least
    step = torch.where(flat, 1.0, (most - least) * (1 / 255))
    least = torch.where(flat, 0.0, least)
    return _to_levels(frames.to(torch.float32).sub_(least).div_(step))


def equalize(frames: Tensor) -> Tensor:
    """Equalize the histogram of every channel of every frame as in Pillow; a constant channel is kept."""
    num_frames, _, height, width = frames.shape
    histograms = 3 * num_frames
    which = 256 * torch.arange(histograms, dtype=torch.int32).view(num_frames, 1, 1, 3)
    index = (frames.permute(0, 2, 3, 1) + which).flatten()  # histogram and level as one index
    counts = torch.bincount(index, minlength=256 * histograms).view(histograms, 256)
    below = counts.cumsum(1) - counts
    highest = (counts > 0).long().mul_(torch.arange(256)).argmax(1, keepdim=True)
    step = (height * width - counts.gather(1, highest)) // 255  # pixels per level
    table = (below + step // 2) // step.clamp(min=1)
    table = torch.where(step > 0, table.clamp_(max=255), torch.arange(256)).to(torch.uint8)
    return table.flatten().index_select(0, index).view(num_frames, height, width, 3).permute(0, 3, 1, 2)


def _gray(frames: Tensor) -> Tensor:
    """Return integer gray levels as floats: (T, 3, H, W) uint8 -> (T, 1, H, W)."""
    red, green, blue = frames[:, 0:1], frames[:, 1:2], frames[:, 2:3]
    gray = red.mul(RGB_TO_GRAY[0]).add_(green, alpha=RGB_TO_GRAY[1]).add_(blue, alpha=RGB_TO_GRAY[2])
    return gray.floor_()


def _to_levels(values: Tensor) -> Tensor:
    """Convert floats to uint8, clamped to 0..255 and rounded down."""
    return values.clamp_(0, 255).to(torch.uint8)


FILL: Final = 128
"""Gray level of pixels from outside of the frame."""
CHANCE: Final = 0.5
"""Probability of applying an operation that was drawn."""
MAGNITUDE_SPREAD: Final = 0.5
"""Standard deviation of the magnitude from one operation to the next."""


def rand_augment(frames: Tensor, operations: int, magnitude: float, rng: Generator) -> Tensor:
    """Apply random operations from OPERATIONS, each with probability CHANCE.

    Args:
        frames: (T, 3, H, W) uint8, channels last in memory.
        operations: Number of operations to draw, with replacement.
        magnitude: Mean strength, 0 to 10.
        rng: Source of all random choices, which are the same for all frames.

    Returns:
        The same shape and type.
    """
    names = list(OPERATIONS)
    for name in rng.choice(names, operations):
        if rng.random() < CHANCE:
            level = min(max(rng.normal(magnitude, MAGNITUDE_SPREAD), 0.0), 10.0) / 10
            sign = -1 if rng.random() < 0.5 else 1
            frames = OPERATIONS[name].apply(frames, OPERATIONS[name].amount(level, sign))
    return frames


class Operation(NamedTuple):
    """An operation on frames, and its range of amounts."""

    apply: Callable[[Tensor, float], Tensor]
    """Function of the frames and an amount."""
    weakest: float = 0.0
    """Amount at magnitude 0."""
    strongest: float = 0.0
    """Amount at magnitude 10."""
    both_ways: bool = False
    """True if the amount can also differ from the weakest one in the other direction."""

    def amount(self, level: float, sign: int) -> float:
        """Return the amount at `level`, 0 to 1; `sign` is 1 or -1."""
        return self.weakest + (sign if self.both_ways else 1) * level * (self.strongest - self.weakest)


def rotate(frames: Tensor, degrees: float) -> Tensor:
    """Rotate counterclockwise about the center, bilinear."""
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    return _warp(frames, ((cos, -sin, 0.0), (sin, cos, 0.0)))


def shear_x(frames: Tensor, slope: float) -> Tensor:
    """Shift each row to the left by `slope` times its distance from the top, bilinear."""
    return _warp(frames, ((1.0, slope, slope * frames.shape[-2] / 2), (0.0, 1.0, 0.0)))


def shear_y(frames: Tensor, slope: float) -> Tensor:
    """Shift each column up by `slope` times its distance from the left edge, bilinear."""
    return _warp(frames, ((1.0, 0.0, 0.0), (slope, 1.0, slope * frames.shape[-1] / 2)))


def translate_x(frames: Tensor, fraction: float) -> Tensor:
    """Shift to the right by a fraction of the width, in whole pixels, without interpolation."""
    right = round(fraction * frames.shape[-1])
    return F.pad(frames, (right, -right), value=FILL)


def translate_y(frames: Tensor, fraction: float) -> Tensor:
    """Shift down by a fraction of the height, in whole pixels, without interpolation."""
    down = round(fraction * frames.shape[-2])
    return F.pad(frames, (0, 0, down, -down), value=FILL)


def _warp(frames: Tensor, matrix: tuple[tuple[float, float, float], ...]) -> Tensor:
    """Set the pixel at (x, y) to the one at matrix @ (x, y, 1), in pixels from the center, bilinear.

    All frames and channels share one sampling grid, as the channels of one image.
    """
    num_frames, _, height, width = frames.shape
    x = torch.arange(width) - (width - 1) / 2
    y = torch.arange(height).unsqueeze(1) - (height - 1) / 2
    (xx, xy, x0), (yx, yy, y0) = matrix
    grid = torch.stack([(xx * x + xy * y + x0) * 2 / width, (yx * x + yy * y + y0) * 2 / height], dim=-1)
    # Subtract the fill value, so that the zeros outside of the frame become the fill value.
    image = frames.reshape(1, num_frames * 3, height, width).to(torch.float32).sub_(FILL)
    image = F.grid_sample(image, grid[None], mode="bilinear", padding_mode="zeros", align_corners=False)
    levels = image.add_(FILL).round_().to(torch.uint8).view(num_frames, 3, height, width)
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
"""Name -> operation with its amounts at magnitude 0 and 10; identity is missing, because CHANCE covers it."""
