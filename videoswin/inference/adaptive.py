"""Fewer looks where they suffice: views are scored until one class leads by a margin.

V views, K classes.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


def score_adaptively(
    score_each: Callable[[Tensor], Tensor], views: Tensor, margin: float
) -> tuple[Tensor, int]:
    """Views (V, ...) in order, most telling first -> the summed scores (K,) of those looked at, and how many.

    One view, then as many as were looked at before: 1, 2, 4, 8, V. It stops when the likeliest class leads
    the next by more than `margin` in the mean.
    """
    sums, looked = torch.zeros(()), 0
    while True:
        scores = score_each(views[looked : looked + max(looked, 1)])  # (V', K)
        sums = sums.to(scores.device) + scores.sum(0)
        looked += len(scores)
        if looked == len(views) or lead(sums / looked) > margin:
            return sums, looked


def lead(scores: Tensor) -> float:
    """By how much the largest of the scores (K,) exceeds the second; of a single class, by all of it."""
    first, *others = scores.topk(min(2, len(scores))).values.tolist()
    return float(first - sum(others))
