"""Augment batches of normalized clips and their targets, and compute their loss.

Label smoothing, random erasing, mixup and cutmix; then losses that add up over micro-batches and processes.

Legend: B clips, T frames, S height and width in pixels, K classes. All frames of a clip get the same
augmentation, which runs on the device of the clips.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from numpy.random import Generator
from torch import Tensor


def soft_targets(targets: Tensor, num_classes: int, smoothing: float) -> Tensor:
    """Convert labels to soft targets with label smoothing.

    Args:
        targets: Class indices (B,) for one label per clip, or zeros and ones (B, K) for several.
        num_classes: K.
        smoothing: Fraction of the target that is spread: over all K classes with one label, as in
            `torch.nn.functional.cross_entropy`; over present and absent of each class with several, so that
            1 becomes 1 - smoothing / 2 and 0 becomes smoothing / 2, as in timm.data.mixup.

    Returns:
        Float32 targets (B, K).

    Raises:
        ValueError: Targets with several labels do not have K columns.
    """
    if targets.ndim == 2:
        if targets.shape[1] != num_classes:
            raise ValueError(
                f"targets must have shape (B, {num_classes}), one column per class, "
                f"got {tuple(targets.shape)}"
            )
        return targets.to(torch.float32) * (1 - smoothing) + smoothing / 2
    soft = torch.full((len(targets), num_classes), smoothing / num_classes, device=targets.device)
    return soft.scatter_(1, targets.unsqueeze(1), 1 - smoothing + smoothing / num_classes)


def erase(clips: Tensor, probability: float, rng: Generator) -> Tensor:
    """Set one random rectangle of randomly selected clips to zero, in all their frames.

    The rectangle covers 0.02 to 1/3 of the frame, with an aspect ratio of 0.3 to 1 / 0.3.

    Args:
        clips: Normalized clips (B, 3, T, S, S); not modified.
        probability: Probability of erasing, for each clip.
        rng: Source of all random numbers.

    Returns:
        Clips (B, 3, T, S, S); the input itself if `probability` is 0.

    Source: RandomErasing in timm.data, mode "const".
    """
    if probability <= 0:
        return clips
    height, width = clips.shape[-2:]
    erased = clips.clone()
    for clip in erased:
        if rng.random() < probability:
            top, left, box_height, box_width = _sample_erasing_box(height, width, rng)
            clip[..., top : top + box_height, left : left + box_width] = 0
    return erased


def mix(
    clips: Tensor, targets: Tensor, weights: Tensor, *, mixup: float, cutmix: float, rng: Generator
) -> tuple[Tensor, Tensor]:
    """Apply mixup or cutmix: combine each clip and its target with those of another clip of the batch.

    One mixing weight is sampled for the whole batch. If both are on, each is applied with probability 0.5.

    Args:
        clips: Normalized clips (B, 3, T, S, S); not modified.
        targets: Soft targets (B, K); not modified.
        weights: (B,), 1, or 0 for the blank clips of unreadable videos. Blank clips stay unchanged and are
            not mixed into others, because they must not influence the loss.
        mixup: Alpha of the Beta distribution of mixup; 0 is off.
        cutmix: Alpha of the Beta distribution of cutmix; 0 is off.
        rng: Source of all random numbers.

    Returns:
        Mixed clips (B, 3, T, S, S) and targets (B, K); the inputs themselves if both are off.
    """
    if mixup <= 0 and cutmix <= 0:
        return clips, targets
    partners = mixing_partners(weights).to(clips.device)
    use_cutmix = cutmix > 0 and (mixup <= 0 or rng.random() < 0.5)
    if not use_cutmix:
        mixing_weight = float(rng.beta(mixup, mixup))
        return _blend(clips, partners, mixing_weight), _blend(targets, partners, mixing_weight)
    height, width = clips.shape[-2:]
    center = int(rng.integers(height)), int(rng.integers(width))
    top, bottom, left, right = cutmix_box(height, width, center, 1 - float(rng.beta(cutmix, cutmix)))
    mixed = clips.clone()
    mixed[..., top:bottom, left:right] = clips[..., top:bottom, left:right][partners]
    # Not the sampled weight, because the box may be cut at the frame's edge.
    mixing_weight = 1 - (bottom - top) * (right - left) / (height * width)
    return mixed, _blend(targets, partners, mixing_weight)


def mixing_partners(weights: Tensor) -> Tensor:
    """Return the index of the clip that each clip is mixed with.

    Clips of weight 1 are paired in reverse order, as in timm.data.mixup. Rolling by one would pair
    neighbors, which may be clips of the same video.

    Args:
        weights: (B,), 1, or 0 for blank clips, whose partner is the clip itself.

    Returns:
        Indices (B,).
    """
    partners = torch.arange(len(weights), device=weights.device)
    valid = partners[weights > 0]
    partners[valid] = valid.flip(0)
    return partners


def cutmix_box(height: int, width: int, center: tuple[int, int], area: float) -> tuple[int, int, int, int]:
    """Return the box that cutmix pastes, with the aspect ratio of the frame.

    Args:
        height: Height of the frame in pixels.
        width: Width of the frame in pixels.
        center: Row and column of the center of the box.
        area: Fraction of the frame that the box covers, before it is cut at the edge of the frame.

    Returns:
        Top, bottom, left, right in pixels; bottom and right are exclusive.

    Source: CutMix in torchvision.transforms.v2.
    """
    half_height, half_width = int(math.sqrt(area) / 2 * height), int(math.sqrt(area) / 2 * width)
    row, column = center
    top, bottom = max(row - half_height, 0), min(row + half_height, height)
    left, right = max(column - half_width, 0), min(column + half_width, width)
    return top, bottom, left, right


def _blend(values: Tensor, partners: Tensor, weight: float) -> Tensor:
    """Return the weighted mean of each row, with `weight`, and its partner, with 1 - weight."""
    return values.mul(weight).add_(values[partners], alpha=1 - weight)


def _sample_erasing_box(height: int, width: int, rng: Generator) -> tuple[int, int, int, int]:
    """Return (top, left, height, width) of a random box; an empty one if ten samples exceed the frame."""
    for _ in range(10):
        area = height * width * rng.uniform(0.02, 1 / 3)
        ratio = math.exp(rng.uniform(math.log(0.3), -math.log(0.3)))
        box_height, box_width = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if box_height < height and box_width < width:
            top, left = int(rng.integers(height - box_height + 1)), int(rng.integers(width - box_width + 1))
            return top, left, box_height, box_width
    return 0, 0, 0, 0


def classification_loss(
    logits: Tensor,
    targets: Tensor,
    weights: Tensor,
    class_weights: Tensor | None,
    *,
    multi_label: bool,
    total_weight: Tensor | float | None = None,
) -> Tensor:
    """Compute the weighted mean loss of clips, in float32.

    The loss is cross-entropy, or with `multi_label` the mean over classes of binary cross-entropy.

    Args:
        logits: (B, K).
        targets: Soft targets (B, K); each row sums to 1 unless `multi_label`.
        weights: (B,), 1, or 0 for clips that must not contribute.
        class_weights: (K,); None weights all classes equally.
        multi_label: Whether a clip can have several labels.
        total_weight: Sum of the weights of the whole batch, if this is a micro-batch of it. The losses of the
            micro-batches, and their gradients, then add up to those of the batch. If gradients are averaged
            over processes, as in DDP, pass the sum divided by the number of processes. None treats this
            micro-batch as the whole batch.

    Returns:
        The loss, (); 0 if all weights are 0.
    """
    logits, targets = logits.float(), targets.float()
    if multi_label:
        terms = F.binary_cross_entropy_with_logits(logits, targets, class_weights, reduction="none")  # (B, K)
        losses = terms.mean(1)  # (B,)
    else:
        terms = -targets * logits.log_softmax(1)  # (B, K)
        losses = (terms if class_weights is None else terms * class_weights).sum(1)  # (B,)
    total = weights.sum() if total_weight is None else torch.as_tensor(total_weight, device=weights.device)
    # If all weights are 0, so is the sum, and must not become 0 / 0.
    return (losses * weights).sum() / total.clamp(min=1e-6)


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
