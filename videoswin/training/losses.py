"""Compute the loss of a batch in parts that add up over micro-batches and processes.

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
    """Compute the mean loss of the clips that count, in float32.

    The loss is cross-entropy, or with `multi_label` the mean over classes of binary cross-entropy.

    Args:
        logits: (B, K).
        targets: Soft targets (B, K); each row sums to 1 unless `multi_label`.
        counts: (B,), 1, or 0 for clips that must not contribute.
        class_weights: (K,); None weights all classes equally.
        multi_label: Whether a clip can have several labels.
        total: Number of clips that count in the whole batch, if this is a micro-batch of it. The losses of
            the micro-batches, and their gradients, then add up to those of the batch. If gradients are
            averaged over processes, as in DDP, pass the total divided by the number of processes. None
            treats this micro-batch as the whole batch.

    Returns:
        The loss, (); 0 if no clip counts.
    """
    logits, targets = logits.float(), targets.float()
    if multi_label:
        terms = F.binary_cross_entropy_with_logits(logits, targets, class_weights, reduction="none")  # (B, K)
        losses = terms.mean(1)  # (B,)
    else:
        terms = -targets * logits.log_softmax(1)  # (B, K)
        losses = (terms if class_weights is None else terms * class_weights).sum(1)  # (B,)
    num_clips = counts.sum() if total is None else torch.as_tensor(total, device=counts.device)
    # If no clip counts, the sum is 0, and must not become 0 / 0.
    return (losses * counts).sum() / num_clips.clamp(min=1e-6)


def balanced_class_weights(label_counts: Sequence[int] | Tensor) -> Tensor:
    """Compute class weights that give each class the same total weight, with mean 1 over the samples.

    Args:
        label_counts: Number of samples of each class, (K,). A class without samples gets the weight 1,
            which is only used with label smoothing.

    Returns:
        Weights (K,).

    Raises:
        ValueError: There are no samples, or a count is negative.
    """
    counts = torch.as_tensor(label_counts, dtype=torch.float64)  # (K,)
    if counts.ndim != 1 or counts.sum() == 0 or (counts < 0).any():
        raise ValueError(
            f"label_counts must have one count >= 0 per class and at least one sample, got {label_counts}"
        )
    present = counts > 0
    mean_count = counts.sum() / present.sum()  # samples per class if all classes had equally many
    return torch.where(present, mean_count / counts, 1.0).float()


def expected_initial_loss(
    num_classes: int,
    *,
    multi_label: bool,
    label_smoothing: float = 0.0,
    class_weights: Tensor | None = None,
) -> float:
    """Compute the expected loss of a model that predicts all classes with equal probability.

    Args:
        num_classes: K.
        multi_label: Whether a clip can have several labels.
        label_smoothing: Fraction of the target that is spread over all classes. It changes the result only
            together with `class_weights`, because a smoothed target weights all classes.
        class_weights: (K,), from `balanced_class_weights` for the sampled clips; None is no weights.

    Returns:
        ln K, or ln 2 with `multi_label`, times the mean class weight where it applies.
    """
    mean_weight = 1.0 if class_weights is None else float(class_weights.mean())
    if multi_label:
        return math.log(2) * mean_weight
    return math.log(num_classes) * (1 - label_smoothing + label_smoothing * mean_weight)
