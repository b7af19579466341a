"""What is done to a whole batch of normalized clips and their targets: smoothing, erasing, mixup and cutmix.

B clips of a batch, T frames, S side of the square, K classes. All frames of a clip are treated alike, and
clips stay on their device.
"""

from __future__ import annotations

import math

import torch
from numpy.random import Generator
from torch import Tensor


def soft_targets(targets: Tensor, classes: int, smoothing: float) -> Tensor:
    """What the logits are compared with: class indices (B,), or ones and zeros (B, K) -> floats (B, K).

    Of one label, `smoothing` is spread over all classes, as in torch's cross_entropy. Where there can be
    several, each class is a question of its own, and it is spread over the two answers: 1 becomes
    1 - smoothing / 2 and 0 becomes smoothing / 2, as in timm.data.mixup. ValueError for other than K columns.
    """
    if targets.ndim == 2:
        if targets.shape[1] != classes:
            raise ValueError(
                f"targets are {tuple(targets.shape)}, wanted a column for each of {classes} classes"
            )
        return targets.to(torch.float32) * (1 - smoothing) + smoothing / 2
    spread = torch.full((len(targets), classes), smoothing / classes, device=targets.device)
    return spread.scatter_(1, targets.unsqueeze(1), 1 - smoothing + smoothing / classes)


def erase(clips: Tensor, probability: float, rng: Generator) -> Tensor:
    """Clips (B, 3, T, S, S), some of them with one rectangle of zeros in all their frames.

    Its area is 0.02 to 1/3 of the frame, its ratio 0.3 to 1/0.3. As RandomErasing in timm.data, mode "const".
    """
    if probability <= 0:
        return clips
    height, width = clips.shape[-2:]
    erased = clips.clone()
    for clip in erased:
        if rng.random() < probability:
            top, left, high, wide = _erased_box(height, width, rng)
            clip[..., top : top + high, left : left + wide] = 0
    return erased


def mix(
    clips: Tensor, targets: Tensor, counts: Tensor, *, mixup: float, cutmix: float, rng: Generator
) -> tuple[Tensor, Tensor]:
    """Clips (B, 3, T, S, S) and targets (B, K), each blended with its partner in shares drawn for the batch.

    mixup, cutmix: the alphas of their Beta distributions; 0 is off. With both on, a fair coin takes one.
    counts: (B,), 0 for the blank clips of videos that cannot be read. They stay as they are, and the others
    find their partners among themselves, for what does not count must not dilute what does.
    """
    if mixup <= 0 and cutmix <= 0:
        return clips, targets
    partners = partners_of(counts).to(clips.device)
    by_cutmix = cutmix > 0 and (mixup <= 0 or rng.random() < 0.5)
    if not by_cutmix:
        share = float(rng.beta(mixup, mixup))
        return _blended(clips, partners, share), _blended(targets, partners, share)
    height, width = clips.shape[-2:]
    center = int(rng.integers(height)), int(rng.integers(width))
    top, bottom, left, right = pasted_box(height, width, center, 1 - float(rng.beta(cutmix, cutmix)))
    mixed = clips.clone()
    mixed[..., top:bottom, left:right] = clips[..., top:bottom, left:right][partners]
    share = 1 - (bottom - top) * (right - left) / (height * width)  # what the edge cut off was not pasted
    return mixed, _blended(targets, partners, share)


def partners_of(counts: Tensor) -> Tensor:
    """Index of each clip's partner (B,): the clips that count, reversed; the others are their own.

    Reversed, as in timm.data.mixup, and not rolled by one, because neighbors may show the same video.
    """
    partners = torch.arange(len(counts), device=counts.device)
    counting = partners[counts > 0]
    partners[counting] = counting.flip(0)
    return partners


def pasted_box(height: int, width: int, center: tuple[int, int], area: float) -> tuple[int, int, int, int]:
    """(top, bottom, left, right) of a box of `area` of the frame and its ratio, cut at the frame's edge.

    As CutMix in torchvision.transforms.v2. center: row, column.
    """
    half_height, half_width = int(math.sqrt(area) / 2 * height), int(math.sqrt(area) / 2 * width)
    row, column = center
    top, bottom = max(row - half_height, 0), min(row + half_height, height)
    left, right = max(column - half_width, 0), min(column + half_width, width)
    return top, bottom, left, right


def _blended(values: Tensor, partners: Tensor, share: float) -> Tensor:
    """`share` of each row, and the rest of its partner."""
    return values.mul(share).add_(values[partners], alpha=1 - share)


def _erased_box(height: int, width: int, rng: Generator) -> tuple[int, int, int, int]:
    """(top, left, height, width) inside a frame; nothing if ten tries are all too large."""
    for _ in range(10):
        pixels = height * width * rng.uniform(0.02, 1 / 3)
        shape = math.exp(rng.uniform(math.log(0.3), -math.log(0.3)))
        high, wide = round(math.sqrt(pixels * shape)), round(math.sqrt(pixels / shape))
        if high < height and wide < width:
            return int(rng.integers(height - high + 1)), int(rng.integers(width - wide + 1)), high, wide
    return 0, 0, 0, 0
