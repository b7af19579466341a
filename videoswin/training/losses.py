"""The loss of a batch, in parts that add up: over micro-batches and processes as over one big batch.

Legend: B clips, K classes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor


def classification_loss(
    logits: Tensor,
    targets: Tensor,
    counts: Tensor,
    class_weights: Tensor | None,
    *,
    multi_label: bool,
    total: Tensor | float | None = None,
) -> Tensor:
    """Mean loss, (), of the clips that count: logits (B, K), targets (B, K), counts (B,), weights (K,).

    Cross entropy with targets that sum to 1 over the classes, or with `multi_label` the mean over classes of
    the binary one. `counts` are 1, or 0 for clips that must not count. Computed in float32.

    total: clips that count in the whole batch of which this is a part; None takes this part as the whole. The
        losses of the parts then add up to that of the batch, and their gradients too. Where gradients are
        averaged over processes, as DDP does, give total / processes. A batch in which no clip counts has the
        loss 0.
    """
    logits, targets = logits.float(), targets.float()
    if multi_label:
        terms = F.binary_cross_entropy_with_logits(logits, targets, class_weights, reduction="none")  # (B, K)
        losses = terms.mean(1)  # (B,)
    else:
        terms = -targets * logits.log_softmax(1)  # (B, K)
        losses = (terms if class_weights is None else terms * class_weights).sum(1)  # (B,)
    clips = counts.sum() if total is None else torch.as_tensor(total, device=counts.device)
    # Where no clip counts the sum is 0, and must not become 0 / 0.
    return (losses * counts).sum() / clips.clamp(min=1e-6)


def balanced_class_weights(label_counts: Sequence[int] | Tensor) -> Tensor:
    """Weights (K,) that make each class count the same in sum, with mean 1 over the samples.

    label_counts: samples of each class. A class without any gets 1: only smoothed labels ever ask for it.
    ValueError if there is no sample at all, or a negative count.
    """
    numbers = torch.as_tensor(label_counts, dtype=torch.float64)  # (K,)
    if numbers.ndim != 1 or numbers.sum() == 0 or (numbers < 0).any():
        raise ValueError(
            f"label_counts are {label_counts}, wanted one count per class and at least one sample"
        )
    present = numbers > 0
    even = numbers.sum() / present.sum()  # samples per class if all had the same
    return torch.where(present, even / numbers, 1.0).float()


def expected_first_loss(
    num_classes: int,
    *,
    multi_label: bool,
    label_smoothing: float = 0.0,
    class_weights: Tensor | None = None,
) -> float:
    """What the loss is on average as long as the model knows nothing: ln K, or with `multi_label` ln 2.

    label_smoothing does not change it without class_weights (K,), which are those of `balanced_class_weights`
    for the samples drawn: a smoothed target asks in part for the plain mean over the classes.
    """
    mean_weight = 1.0 if class_weights is None else float(class_weights.mean())
    if multi_label:
        return math.log(2) * mean_weight
    return math.log(num_classes) * (1 - label_smoothing + label_smoothing * mean_weight)
