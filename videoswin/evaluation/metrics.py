"""Accuracy, average precision and their 95 % intervals, computed from tensors.

Shapes: `targets` (videos, K) bool is True where a video shows a class. `scores` (videos, K) are
probabilities; a row of NaN is an unreadable video, which counts as wrong.

Legend: K classes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from functools import cached_property
from typing import Final, NamedTuple

import numpy as np
import torch
from torch import Tensor

# torchmetrics has most of this, but imports torchvision, which does not load with every build of torch.

Z_95: Final = 1.959964
"""Standard deviations on each side of the mean that contain 95 % of a normal distribution."""
RESAMPLES: Final = 500
"""Resamples of a bootstrap: enough for two digits of the bounds of an interval."""
TOP: Final = 5
"""k of the top-k accuracy that is reported besides top-1."""

DIGITS: Final = 12
"""Decimal digits of the bounds of an interval; further digits are rounding errors of float64."""

Interval = tuple[float, float]


@dataclass(frozen=True, kw_only=True)
class ClassScore:
    """Accuracy or average precision of one class."""

    label: str
    """Class name."""
    videos: int
    """Number of videos that show the class."""
    score: float | None
    """Accuracy on these videos, or average precision if multi-label; None without videos."""
    interval: Interval | None
    """95 % interval of the accuracy; None if multi-label or without videos."""


@dataclass(frozen=True, kw_only=True, eq=False)
class VideoScores:
    """Scores of a list of videos, and all metrics computed from them.

    A multi-label video counts as correct for top-k accuracy if one of its k most probable classes is among
    its labels; videos without labels are left out of accuracies.
    """

    labels: tuple[str, ...] = field(repr=False)
    """Names of the classes."""
    multi_label: bool
    """True if a video can show several classes."""
    targets: Tensor = field(repr=False)
    """(videos, K) bool: which classes each video shows."""
    scores: Tensor = field(repr=False)
    """(videos, K) float32 probabilities; NaN for an unreadable video."""

    @cached_property
    def ranking(self) -> Tensor:
        """(videos, K) class indices, most probable first; meaningless for an unreadable video."""
        return rank_classes(self.scores)

    @cached_property
    def correct(self) -> Tensor:
        """(videos,) bool: whether the most probable class is correct."""
        return top_k_hits(self.scores, self.targets, 1)

    @cached_property
    def top1(self) -> float:
        """Top-1 accuracy, 0 to 1."""
        return self._fraction(self.correct)

    @cached_property
    def top5(self) -> float | None:
        """Top-5 accuracy, 0 to 1; None for 5 or fewer classes."""
        if len(self.labels) <= TOP:
            return None
        return self._fraction(top_k_hits(self.scores, self.targets, TOP))

    @cached_property
    def loss(self) -> float:
        """Mean cross-entropy of the readable videos, in nats; it can rank models of equal accuracy.

        NaN if no video is readable.
        """
        readable = ~self.scores.isnan().any(1)
        scores, targets = self.scores[readable].double(), self.targets[readable]
        losses = -torch.where(targets, scores, 1 - scores if self.multi_label else 1.0).clamp(min=1e-12).log()
        return losses.sum(1).mean().item()

    @property
    def chance(self) -> float:
        """The `score` of guessing: 1 / K, or the mean fraction of videos per class if multi-label."""
        if self.multi_label:
            fractions = self.targets.double().mean(0)
            return fractions[fractions > 0].mean().item()
        return 1 / len(self.labels)

    @property
    def majority_class_accuracy(self) -> float:
        """The `top1` of always predicting the most frequent class of these videos."""
        return self.targets.sum(0).max().item() / int(self.targets.any(1).sum())

    @property
    def score_interval(self) -> Interval:
        """95 % interval of `score`."""
        return self.intervals["mean_average_precision" if self.multi_label else "top1"]

    @property
    def chance_warning(self) -> str | None:
        """A warning if the 95 % interval of `score` is not above the baseline; else None."""
        if self.multi_label:
            baseline, name = self.chance, "guessing"
        else:
            baseline, name = (
                max(self.chance, self.majority_class_accuracy),
                "always predicting the most frequent class",
            )
        low, high = self.score_interval
        if low > baseline:
            return None
        relation = "includes" if high >= baseline else "is below"
        return (
            f"the 95 % interval, {100 * low:.1f} to {100 * high:.1f} %, {relation} the "
            f"{100 * baseline:.1f} % of {name}: this model is not significantly better than that"
        )

    @cached_property
    def per_class(self) -> tuple[ClassScore, ...]:
        """Scores of all classes of the model, in the order of `labels`."""
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
    def mean_class_accuracy(self) -> float | None:
        """Mean accuracy of the classes that occur, 0 to 1; None if multi-label."""
        return None if self.multi_label else mean_over_classes(self._class_scores)

    @property
    def mean_average_precision(self) -> float | None:
        """Mean average precision (mAP) of the classes that occur, 0 to 1; None unless multi-label."""
        return mean_over_classes(self._class_scores) if self.multi_label else None

    @property
    def score(self) -> float:
        """The metric for comparing models: top-1 accuracy, or mAP if multi-label."""
        return mean_over_classes(self._class_scores) if self.multi_label else self.top1

    @cached_property
    def confusion(self) -> Tensor | None:
        """(K, K) number of videos of class i that were predicted as class j; None if multi-label."""
        return None if self.multi_label else confusion_matrix(self.scores, self.targets.int().argmax(1))

    @cached_property
    def intervals(self) -> dict[str, Interval]:
        """95 % intervals of top1, of top5 if there is one, and of mean_class_accuracy.

        They are Wilson intervals. Multi-label videos have mean_average_precision instead of
        mean_class_accuracy, with a bootstrap over videos.
        """
        labeled = int(self.targets.any(1).sum())
        found = {"top1": wilson_interval(self.top1, labeled)}
        if self.top5 is not None:
            found["top5"] = wilson_interval(self.top5, labeled)
        if self.multi_label:
            rng = np.random.default_rng(0)  # for reproducible reports
            interval = mean_average_precision_interval(self.scores, self.targets, rng)
            return found | {"mean_average_precision": interval}
        mean = mean_over_classes(self._class_scores)
        return found | {"mean_class_accuracy": mean_class_accuracy_interval(mean, self.targets.sum(0))}

    def _fraction(self, hits: Tensor) -> float:
        """Return the fraction of hits among the videos that show any class."""
        return hits[self.targets.any(1)].double().mean().item()

    @cached_property
    def _class_scores(self) -> Tensor:
        """(K,) float64 accuracy or average precision; NaN for classes that do not occur."""
        if self.multi_label:
            return average_precision(self.scores, self.targets)
        return class_accuracy(self.correct, self.targets)


def rank_classes(scores: Tensor) -> Tensor:
    """Sort the classes of each video by score, ties by index: (videos, K) -> (videos, K) indices."""
    return scores.argsort(dim=1, descending=True, stable=True)


def top_k_hits(scores: Tensor, targets: Tensor, k: int) -> Tensor:
    """Return (videos,) bool: whether one of the min(k, K) most probable classes of each video is correct.

    Args:
        scores: (videos, K) score of each class; a video with NaN is never correct.
        targets: (videos, K) bool, the classes of each video.
        k: Number of classes, >= 1.

    Raises:
        ValueError: k < 1.
    """
    if k < 1:
        raise ValueError(f"k must be >= 1, got {k}")
    hits = targets.gather(1, rank_classes(scores)[:, :k]).any(1)  # (videos,)
    return hits & ~scores.isnan().any(1)


def class_accuracy(hits: Tensor, targets: Tensor) -> Tensor:
    """Return the fraction of hits of each class: (videos,) bool -> (K,) float64, NaN without videos."""
    return (hits[:, None] & targets).sum(0).double() / targets.sum(0)


def mean_over_classes(per_class: Tensor) -> float:
    """Return the unweighted mean of (K,) over the classes that occur, which are not NaN."""
    return per_class.nanmean().item()


def confusion_matrix(scores: Tensor, labels: Tensor) -> Tensor:
    """Count the videos of class i that are predicted as class j; unreadable videos are left out.

    Args:
        scores: (videos, K).
        labels: (videos,) class indices.

    Returns:
        (K, K) int64.
    """
    num_classes = scores.shape[1]
    readable = ~scores.isnan().any(1)
    predicted = rank_classes(scores)[:, 0]
    pairs = (labels * num_classes + predicted)[readable]
    return torch.bincount(pairs, minlength=num_classes**2).view(num_classes, num_classes)


def confused_pairs(matrix: Tensor) -> list[tuple[int, int, int]]:
    """Return (true class, predicted class, videos) of all confused pairs, most videos first."""
    wrong = matrix.clone().fill_diagonal_(0)
    pairs = [(true, predicted, int(wrong[true, predicted])) for true, predicted in wrong.nonzero().tolist()]
    return sorted(pairs, key=lambda pair: -pair[2])


def average_precision(scores: Tensor, targets: Tensor) -> Tensor:
    """Return the average precision of each class: (K,) float64, NaN for classes that do not occur.

    It is not interpolated; videos of equal score share one threshold, and unreadable videos come last.

    Source: sklearn.metrics.average_precision_score.
    """
    ranked = _rank_videos(scores, targets)
    return _weighted_average_precision(ranked, torch.ones(len(scores), dtype=torch.float64))


def wilson_interval(fraction: float, count: float) -> Interval:
    """Return the Wilson 95 % interval of a fraction.

    Unlike mean and standard error, it stays inside 0 to 1, and is not empty for fractions of 0 and 1.

    Args:
        fraction: Observed fraction of hits, 0 to 1.
        count: Number of videos, above 0.
    """
    if count <= 0 or not 0 <= fraction <= 1:
        raise ValueError(f"fraction must be 0 to 1 and count > 0, got {fraction} and {count}")
    shrink = 1 / (1 + Z_95**2 / count)
    center = shrink * (fraction + Z_95**2 / (2 * count))
    half = shrink * Z_95 * math.sqrt(fraction * (1 - fraction) / count + Z_95**2 / (4 * count**2))
    return _round_bound(center - half), _round_bound(center + half)


def mean_class_accuracy_interval(mean: float, videos_per_class: Tensor) -> Interval:
    """Return the Wilson 95 % interval of a mean class accuracy.

    It is that of the number of evenly distributed videos whose mean would have the same variance.

    Args:
        mean: Mean class accuracy, 0 to 1.
        videos_per_class: (K,) number of videos; 0 for classes that do not occur.
    """
    counts = videos_per_class[videos_per_class > 0].double()
    return wilson_interval(mean, len(counts) ** 2 / (1 / counts).sum().item())


def mean_average_precision_interval(
    scores: Tensor, targets: Tensor, rng: np.random.Generator, resamples: int = RESAMPLES
) -> Interval:
    """Return the 95 % bootstrap interval of mAP: quantiles over videos resampled with replacement.

    Args:
        scores: (videos, K) score of each class.
        targets: (videos, K) bool, the classes of each video.
        rng: Random generator.
        resamples: Number of resamples, >= 1.

    Returns:
        Lower and upper bound, 0 to 1.
    """
    ranked = _rank_videos(scores, targets)
    count = len(scores)
    means = []
    for _ in range(resamples):
        times_drawn = np.bincount(rng.integers(count, size=count), minlength=count)
        means.append(
            mean_over_classes(_weighted_average_precision(ranked, torch.from_numpy(times_drawn).double()))
        )
    low, high = np.nanquantile(means, (0.025, 0.975))
    return _round_bound(float(low)), _round_bound(float(high))


def _round_bound(bound: float) -> float:
    """Round a bound of an interval in 0 to 1, so that 1 is 1.0, not 0.9999999999999999."""
    return min(max(round(bound, DIGITS), 0.0), 1.0)


class _RankedVideos(NamedTuple):
    """The videos sorted by the score of each class, highest first; all (videos, K)."""

    video: Tensor
    """Index of the video at this rank."""
    shows: Tensor
    """Whether it shows the class."""
    group_end: Tensor
    """The last rank with the same score."""


def _rank_videos(scores: Tensor, targets: Tensor) -> _RankedVideos:
    ordered, video = scores.nan_to_num(nan=-math.inf).sort(dim=0, descending=True)
    count = len(ordered)
    ends = torch.ones_like(ordered, dtype=torch.bool)
    ends[:-1] = ordered[:-1] != ordered[1:]
    ranks = torch.where(ends, torch.arange(count)[:, None], count)
    group_end = ranks.flip(0).cummin(0).values.flip(0)
    return _RankedVideos(video, targets.gather(0, video), group_end)


def _weighted_average_precision(ranked: _RankedVideos, weights: Tensor) -> Tensor:
    """Return (K,) average precision; `weights` (videos,) is how often each video counts."""
    weight = weights[ranked.video]  # (videos, K)
    positive = weight * ranked.shows
    # A video that was not drawn has weight 0, so its precision, 0 / 0, does not matter.
    precision = positive.cumsum(0) / weight.cumsum(0).clamp(min=1)
    return (positive * precision.gather(0, ranked.group_end)).sum(0) / positive.sum(0)
