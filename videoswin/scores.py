"""How good scores are: accuracies, average precision and their 95 % intervals, as pure functions on tensors.

N videos, K classes. `targets` (N, K) is True where a video shows a class. A row of NaN in `scores` (N, K) is
a video without an answer: it is right about nothing.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

# torchmetrics has most of this, but imports torchvision, whose compiled half fails beside other torch builds.

Z_95 = 1.959964
"""Standard deviations to each side of the mean that hold 95 % of a normal distribution."""
RESAMPLES = 500
"""Draws of a bootstrap: enough for the second digit of an interval's ends."""


def rank_classes(scores: Tensor) -> Tensor:
    """The classes of each video, highest score first, of equals the lower index: (N, K) -> (N, K) indices."""
    return scores.argsort(dim=1, descending=True, stable=True)


def top_k_hits(scores: Tensor, targets: Tensor, k: int) -> Tensor:
    """Whether one of the min(k, K) highest scores of each video is of a class that it shows: (N,) bool."""
    if k < 1:
        raise ValueError(f"k is {k}, wanted 1 or more")
    hits = targets.gather(1, rank_classes(scores)[:, :k]).any(1)  # (N,)
    return hits & ~scores.isnan().any(1)


def class_accuracy(hits: Tensor, targets: Tensor) -> Tensor:
    """Part of each class's videos that are hits: (N,) bool -> (K,) float64, NaN where there are none."""
    return (hits[:, None] & targets).sum(0).double() / targets.sum(0)


def mean_over_classes(per_class: Tensor) -> float:
    """Mean of (K,) over the classes that occur, each counting the same however many videos it has."""
    return per_class.nanmean().item()


def confusion_matrix(scores: Tensor, labels: Tensor) -> Tensor:
    """How many videos of class i are taken for j: (N, K), (N,) -> (K, K) int64; unanswered ones for none."""
    num_classes = scores.shape[1]
    answered = ~scores.isnan().any(1)
    predicted = rank_classes(scores)[:, 0]
    pairs = (labels * num_classes + predicted)[answered]
    return torch.bincount(pairs, minlength=num_classes**2).view(num_classes, num_classes)


def average_precision(scores: Tensor, targets: Tensor) -> Tensor:
    """Area under each class's precision-recall steps, not interpolated: (K,) float64, NaN if it never occurs.

    As sklearn.metrics.average_precision_score: videos of equal score are found together. A video without an
    answer is found last.
    """
    return _weighted_average_precision(_found(scores, targets), torch.ones(len(scores), dtype=torch.float64))


def wilson_interval(part: float, number: float) -> tuple[float, float]:
    """Where the true share lies with 95 % confidence if `part` of `number` videos are hits: Wilson's.

    Unlike mean and standard error it stays inside 0..1, and is not empty where all or none are hits.
    """
    if number <= 0 or not 0 <= part <= 1:
        raise ValueError(f"part is {part}, number is {number}; wanted 0..1 and above 0")
    shrink = 1 / (1 + Z_95**2 / number)
    centre = shrink * (part + Z_95**2 / (2 * number))
    half = shrink * Z_95 * math.sqrt(part * (1 - part) / number + Z_95**2 / (4 * number**2))
    return max(0.0, centre - half), min(1.0, centre + half)


def mean_class_interval(mean: float, videos_per_class: Tensor) -> tuple[float, float]:
    """Wilson's interval of a mean class accuracy; videos_per_class (K,), 0 for classes that do not occur.

    For the number of videos that, evenly spread over the classes, would give a mean of this variance.
    """
    counts = videos_per_class[videos_per_class > 0].double()
    return wilson_interval(mean, len(counts) ** 2 / (1 / counts).sum().item())


def mean_average_precision_interval(
    scores: Tensor, targets: Tensor, rng: np.random.Generator, resamples: int = RESAMPLES
) -> tuple[float, float]:
    """Between which values 95 % of the mAPs of lists lie that are drawn from these N with replacement."""
    found = _found(scores, targets)
    number = len(scores)
    means = []
    for _ in range(resamples):
        times_drawn = np.bincount(rng.integers(number, size=number), minlength=number)
        means.append(
            mean_over_classes(_weighted_average_precision(found, torch.from_numpy(times_drawn).double()))
        )
    low, high = np.nanquantile(means, (0.025, 0.975))
    return float(low), float(high)


class _Found(NamedTuple):
    """The videos in the order in which each class finds them, all (N, K)."""

    video: Tensor
    """Which video comes at this place."""
    shows: Tensor
    """Whether it shows the class."""
    group_end: Tensor
    """The last place with the same score."""


def _found(scores: Tensor, targets: Tensor) -> _Found:
    ordered, video = scores.nan_to_num(nan=-math.inf).sort(dim=0, descending=True)
    number = len(ordered)
    ends = torch.ones_like(ordered, dtype=torch.bool)
    ends[:-1] = ordered[:-1] != ordered[1:]
    places = torch.where(ends, torch.arange(number)[:, None], number)
    group_end = places.flip(0).cummin(0).values.flip(0)
    return _Found(video, targets.gather(0, video), group_end)


def _weighted_average_precision(found: _Found, weights: Tensor) -> Tensor:
    """(K,); weights (N,) says how many times each video counts."""
    weight = weights[found.video]  # (N, K)
    shown = weight * found.shows
    # Of a video that was not drawn nothing counts, so 0 of 0 may be anything.
    precision = shown.cumsum(0) / weight.cumsum(0).clamp(min=1)
    return (shown * precision.gather(0, found.group_end)).sum(0) / shown.sum(0)
