"""The loss agrees with torch, micro-batches add up to the batch, and blank clips do not count."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from videoswin.training.losses import balanced_class_weights, classification_loss, expected_initial_loss

CLIPS, CLASSES = 12, 5
BOTH = pytest.mark.parametrize("multi_label", [False, True], ids=["one label", "several"])


def batch(multi_label: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Return logits (B, K), soft targets (B, K), and loss weights (B,) of which every fifth is 0."""
    random = torch.Generator().manual_seed(0)
    logits = torch.randn(CLIPS, CLASSES, generator=random)
    noise = torch.randn(CLIPS, CLASSES, generator=random)
    targets = noise.sigmoid() if multi_label else noise.softmax(1)
    clip_weights = (torch.arange(CLIPS) % 5 != 4).float()
    return logits, targets, clip_weights


def everyone() -> Tensor:
    return torch.ones(CLIPS)


def test_cross_entropy_is_that_of_torch():
    logits, targets, _ = batch(False)
    ours = classification_loss(logits, targets, everyone(), None, multi_label=False)
    assert torch.allclose(ours, F.cross_entropy(logits, targets))


def test_binary_cross_entropy_is_that_of_torch():
    logits, targets, _ = batch(True)
    ours = classification_loss(logits, targets, everyone(), None, multi_label=True)
    assert torch.allclose(ours, F.binary_cross_entropy_with_logits(logits, targets))


def test_class_weights_are_those_of_torch_for_hard_labels():
    logits, _, _ = batch(False)
    labels = torch.arange(CLIPS) % CLASSES
    weights = torch.rand(CLASSES)
    ours = classification_loss(logits, F.one_hot(labels, CLASSES), everyone(), weights, multi_label=False)
    theirs = F.cross_entropy(logits, labels, weights, reduction="none").mean()
    assert torch.allclose(ours, theirs)


@BOTH
def test_clips_that_do_not_count_change_nothing(multi_label):
    logits, targets, clip_weights = batch(multi_label)
    weights = torch.rand(CLASSES)
    ours = classification_loss(logits, targets, clip_weights, weights, multi_label=multi_label)
    kept = clip_weights > 0
    theirs = classification_loss(
        logits[kept], targets[kept], clip_weights[kept], weights, multi_label=multi_label
    )
    assert torch.allclose(ours, theirs)


@BOTH
@pytest.mark.parametrize("parts", [2, 3, 4, 6])
def test_losses_and_gradients_of_the_parts_add_up_to_those_of_the_batch(multi_label, parts):
    logits, targets, clip_weights = batch(multi_label)
    whole = logits.clone().requires_grad_()
    loss = classification_loss(whole, targets, clip_weights, None, multi_label=multi_label)
    loss.backward()
    cut = logits.clone().requires_grad_()
    total_weight = clip_weights.sum()
    pieces = zip(cut.chunk(parts), targets.chunk(parts), clip_weights.chunk(parts), strict=True)
    losses = [
        classification_loss(*piece, None, multi_label=multi_label, total_weight=total_weight)
        for piece in pieces
    ]
    sum(losses).backward()
    assert torch.allclose(sum(losses), loss)
    assert torch.allclose(cut.grad, whole.grad)


@BOTH
def test_averaging_over_processes_gives_the_loss_of_the_batch(multi_label):
    logits, targets, clip_weights = batch(multi_label)
    shares = [piece.chunk(4) for piece in (logits, targets, clip_weights)]
    # Four processes with 3 + 2 + 3 + 2 clips that count.
    losses = [
        classification_loss(*share, None, multi_label=multi_label, total_weight=float(clip_weights.sum()) / 4)
        for share in zip(*shares, strict=True)
    ]
    whole = classification_loss(logits, targets, clip_weights, None, multi_label=multi_label)
    assert torch.allclose(torch.stack(losses).mean(), whole)


def test_one_clip_among_four_processes_is_the_whole_batch():
    logits, targets, _ = batch(False)
    clip_weights = torch.zeros(CLIPS)
    clip_weights[0] = 1.0
    there = classification_loss(logits, targets, clip_weights, None, multi_label=False, total_weight=1 / 4)
    whole = classification_loss(logits, targets, clip_weights, None, multi_label=False)
    assert torch.allclose(there / 4, whole)  # the other three have a loss of 0


@pytest.mark.parametrize("total_weight", [None, 0.0])
def test_a_batch_of_which_nothing_counts_teaches_nothing(total_weight):
    logits, targets, _ = batch(False)
    logits.requires_grad_()
    loss = classification_loss(
        logits, targets, torch.zeros(CLIPS), None, multi_label=False, total_weight=total_weight
    )
    loss.backward()
    assert loss.item() == 0.0
    assert not logits.grad.any()


@BOTH
def test_half_precision_logits_lose_nothing_more(multi_label):
    logits, targets, clip_weights = batch(multi_label)
    half = logits.bfloat16()
    ours = classification_loss(half, targets.bfloat16(), clip_weights, None, multi_label=multi_label)
    assert ours.dtype == torch.float32
    exact = classification_loss(
        half.float(), targets.bfloat16().float(), clip_weights, None, multi_label=multi_label
    )
    assert torch.equal(ours, exact)


def test_balanced_weights_make_classes_equal_in_sum_and_one_on_average():
    counts = torch.tensor([1, 10, 100])
    weights = balanced_class_weights(counts)
    assert torch.allclose(weights * counts, torch.full((3,), 37.0))
    assert (weights * counts).sum() / counts.sum() == pytest.approx(1.0)


def test_a_class_without_samples_weighs_one_and_moves_no_other():
    assert balanced_class_weights([4, 0, 4]).tolist() == [1.0, 1.0, 1.0]
    assert balanced_class_weights([2, 0, 6]).tolist() == pytest.approx([2.0, 1.0, 2 / 3])


@pytest.mark.parametrize("counts", [[], [0, 0], [3, -1], [[1, 2]]])
def test_counts_that_make_no_sense_are_refused(counts):
    with pytest.raises(ValueError, match="label_counts"):
        balanced_class_weights(counts)


@BOTH
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("weighted", [False, True])
def test_the_first_loss_is_the_expected_one_where_the_model_knows_nothing(multi_label, smoothing, weighted):
    labels = torch.tensor([0, 0, 0, 0, 0, 0, 0, 1, 2, 2])
    weights = balanced_class_weights(labels.bincount()) if weighted else None
    targets = F.one_hot(labels, 3) * (1 - smoothing) + smoothing / 3
    loss = classification_loss(torch.zeros(10, 3), targets, torch.ones(10), weights, multi_label=multi_label)
    expected = expected_initial_loss(
        3, multi_label=multi_label, label_smoothing=smoothing, class_weights=weights
    )
    assert loss.item() == pytest.approx(expected, rel=1e-5)


def test_the_expected_initial_loss_is_ln_k_or_ln_2():
    assert expected_initial_loss(400, multi_label=False) == pytest.approx(math.log(400))
    assert expected_initial_loss(400, multi_label=True) == pytest.approx(0.6931, abs=1e-4)
