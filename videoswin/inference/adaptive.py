"""Adaptive view sampling: score views of a video until one class leads by a margin.

Legend: V views, K classes.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


def score_adaptively(
    score_each: Callable[[Tensor], Tensor], views: Tensor, margin: float
) -> tuple[Tensor, int]:
    """Score views in batches until the most probable class leads by more than `margin`.

    The number of scored views doubles with each batch: 1, 2, 4, 8, V.

    Args:
        score_each: Returns the scores (views, K) of views.
        views: (V, ...), most informative views first.
        margin: Lead of the most probable class over the second in the mean scores.

    Returns:
        Sum of the scores (K,) of the scored views, and their number.
    """
    sums, scored = torch.zeros(()), 0
    while True:
        scores = score_each(views[scored : scored + max(scored, 1)])  # (batch, K)
        sums = sums.to(scores.device) + scores.sum(0)
        scored += len(scores)
        if scored == len(views) or lead(sums / scored) > margin:
            return sums, scored


def lead(scores: Tensor) -> float:
    """Return the largest minus the second largest score of (K,), or the only score if K is 1."""
    first, *others = scores.topk(min(2, len(scores))).values.tolist()
    return float(first - sum(others))
