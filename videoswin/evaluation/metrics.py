"""How good scores are: accuracies, average precision and their 95 % intervals, from tensors alone.

N videos, K classes. `targets` (N, K) is True where a video shows a class. A row of NaN in `scores` (N, K) is
a video without an answer: it is right about nothing.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from functools import cached_property
from typing import Final, NamedTuple

import numpy as np
import torch
from torch import Tensor

# torchmetrics has most of this, but imports torchvision, whose compiled half fails beside other torch builds.

Z_95: Final = 1.959964
"""Standard deviations to each side of the mean that hold 95 % of a normal distribution."""
RESAMPLES: Final = 500
"""Draws of a bootstrap: enough for the second digit of an interval's ends."""
TOP: Final = 5
"""The second accuracy asks for a right class among so many most probable ones."""

DIGITS: Final = 12
"""Decimal digits of an interval's ends; further ones are rounding errors of float64."""

Interval = tuple[float, float]


@dataclass(frozen=True, kw_only=True)
class ClassScore:
    """How well one class is recognized."""

    label: str
    videos: int
    """That show the class."""
    score: float | None
    """Part of them that is named right, or average precision if multi-label; None if there are none."""
    interval: Interval | None
    """95 % of the accuracy."""


@dataclass(frozen=True, kw_only=True, eq=False)
class VideoScores:
    """Scores of a list of videos, and every number that follows from them.

    Accuracies of multi-label videos ask whether the likeliest class, or one of the TOP likeliest, is among a
    video's own; videos that show no class are left out there.
    """

    labels: tuple[str, ...] = field(repr=False)
    """Names of the classes."""
    multi_label: bool
    """True if a video can show several classes."""
    targets: Tensor = field(repr=False)
    """(N, K) bool: which classes each video shows."""
    scores: Tensor = field(repr=False)
    """(N, K) float32 probabilities; NaN for a video without an answer."""

    @cached_property
    def ranking(self) -> Tensor:
        """(N, K) class indices, likeliest first; without meaning for an unreadable video."""
        return rank_classes(self.scores)

    @cached_property
    def correct(self) -> Tensor:
        """(N,) bool: whether the likeliest class is right."""
        return top_k_hits(self.scores, self.targets, 1)

    @cached_property
    def top1(self) -> float:
        """Part of the videos whose likeliest class is right."""
        return self._part(self.correct)

    @cached_property
    def top5(self) -> float | None:
        """Fraction of the videos with a right class among the 5 most probable; None for up to 5 classes."""
        if len(self.labels) <= TOP:
            return None
        return self._part(top_k_hits(self.scores, self.targets, TOP))

    @cached_property
    def loss(self) -> float:
        """Mean cross-entropy of the videos with an answer: where accuracies are equal, less is better.

        NaN if no video has an answer.
        """
        answered = ~self.scores.isnan().any(1)
        scores, targets = self.scores[answered].double(), self.targets[answered]
        losses = -torch.where(targets, scores, 1 - scores if self.multi_label else 1.0).clamp(min=1e-12).log()
        return losses.sum(1).mean().item()

    @property
    def chance(self) -> float:
        """The `score` of guessing: one class in K, or the mean share of videos of a class if multi-label."""
        if self.multi_label:
            shares = self.targets.double().mean(0)
            return shares[shares > 0].mean().item()
        return 1 / len(self.labels)

    @property
    def majority_class_accuracy(self) -> float:
        """The `top1` of always answering the class that most of these videos show."""
        return self.targets.sum(0).max().item() / int(self.targets.any(1).sum())

    @property
    def score_interval(self) -> Interval:
        """95 % interval of `score`."""
        return self.intervals["mean_class_accuracy" if self.multi_label else "top1"]

    @property
    def chance_warning(self) -> str | None:
        """What to say if the interval of `score` includes what is reached without looking at the videos."""
        if self.multi_label:
            baseline, way = self.chance, "guessing"
        else:
            baseline, way = (
                max(self.chance, self.majority_class_accuracy),
                "always answering the most frequent class",
            )
        low, high = self.score_interval
        if low > baseline:
            return None
        place = "includes" if high >= baseline else "is below"
        return (
            f"the 95 % interval, {100 * low:.1f} to {100 * high:.1f} %, {place} the {100 * baseline:.1f} % "
            f"of {way}: it is not shown that this model has learned anything"
        )

    @cached_property
    def per_class(self) -> tuple[ClassScore, ...]:
        """One entry for each of the model's classes."""
        counts = self.targets.sum(0).tolist()
        entries = zip(self.labels, counts, self._class_scores.tolist(), strict=True)
        return tuple(
            ClassScore(
                label=label,
                videos=videos,
                score=score if videos else None,
                interval=None if self.multi_label or not videos else wilson_interval(score, videos),
            )
            for label, videos, score in entries
        )

    @property
    def mean_class_accuracy(self) -> float:
        """Mean score of the classes that occur: mean class accuracy, or mAP if multi-label."""
        return mean_over_classes(self._class_scores)

    @property
    def mean_average_precision(self) -> float | None:
        """mAP of multi-label videos."""
        return self.mean_class_accuracy if self.multi_label else None

    @property
    def score(self) -> float:
        """The number to compare models by: top-1 accuracy, or mAP if multi-label."""
        return self.mean_class_accuracy if self.multi_label else self.top1

    @cached_property
    def confusion(self) -> Tensor | None:
        """(K, K) videos of class i that were taken for class j; None if multi-label."""
        return None if self.multi_label else confusion_matrix(self.scores, self.targets.int().argmax(1))

    @cached_property
    def intervals(self) -> dict[str, Interval]:
        """95 % intervals of top1, top5 if there is one, and mean_class.

        Wilson's, but for mAP a bootstrap over videos.
        """
        asked = int(self.targets.any(1).sum())
        if self.multi_label:
            rng = np.random.default_rng(0)  # the same report every time
            mean_class_accuracy = mean_average_precision_interval(self.scores, self.targets, rng)
        else:
            mean_class_accuracy = mean_class_accuracy_interval(self.mean_class_accuracy, self.targets.sum(0))
        found = {"top1": wilson_interval(self.top1, asked)}
        if self.top5 is not None:
            found["top5"] = wilson_interval(self.top5, asked)
        return found | {"mean_class_accuracy": mean_class_accuracy}

    def _part(self, hits: Tensor) -> float:
        """Of the videos that show any class."""
        return hits[self.targets.any(1)].double().mean().item()

    @cached_property
    def _class_scores(self) -> Tensor:
        """(K,) accuracy or average precision; NaN for classes that do not occur."""
        if self.multi_label:
            return average_precision(self.scores, self.targets)
        return class_accuracy(self.correct, self.targets)


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


def wilson_interval(part: float, number: float) -> Interval:
    """Where the true share lies with 95 % confidence if `part` of `number` videos are hits: Wilson's.

    Unlike mean and standard error it stays inside 0..1, and is not empty where all or none are hits.
    """
    if number <= 0 or not 0 <= part <= 1:
        raise ValueError(f"part is {part}, number is {number}; wanted 0..1 and above 0")
    shrink = 1 / (1 + Z_95**2 / number)
    center = shrink * (part + Z_95**2 / (2 * number))
    half = shrink * Z_95 * math.sqrt(part * (1 - part) / number + Z_95**2 / (4 * number**2))
    return _rounded(center - half), _rounded(center + half)


def mean_class_accuracy_interval(mean: float, videos_per_class: Tensor) -> Interval:
    """Wilson's interval of a mean class accuracy; videos_per_class (K,), 0 for classes that do not occur.

    For the number of videos that, evenly spread over the classes, would give a mean of this variance.
    """
    counts = videos_per_class[videos_per_class > 0].double()
    return wilson_interval(mean, len(counts) ** 2 / (1 / counts).sum().item())


def mean_average_precision_interval(
    scores: Tensor, targets: Tensor, rng: np.random.Generator, resamples: int = RESAMPLES
) -> Interval:
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
    return _rounded(float(low)), _rounded(float(high))


def _rounded(end: float) -> float:
    """An end of an interval in 0..1, without rounding errors: 1 is 1.0, not 0.9999999999999999."""
    return min(max(round(end, DIGITS), 0.0), 1.0)


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
