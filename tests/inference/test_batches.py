"""Batches have views of one shape; adaptive sampling stops when it may, with the result of its views."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from videoswin.inference.predictor import batches, lead, score_adaptively


def itself(scores: Tensor) -> Tensor:
    """A model whose views are their own scores."""
    return scores


def scores_of(views: int, classes: int, seed: int) -> Tensor:
    return torch.randn(views, classes, generator=torch.manual_seed(seed)).mul(3).softmax(-1)


def test_a_clear_first_view_is_enough() -> None:
    sums, looked = score_adaptively(itself, torch.tensor([[0.9, 0.1], [0.0, 1.0]]), 0.5)
    assert looked == 1
    assert sums.tolist() == pytest.approx([0.9, 0.1])


def test_scored_views_double_until_one_class_leads_or_none_are_left() -> None:
    sizes: list[int] = []

    def undecided(views: Tensor) -> Tensor:
        sizes.append(len(views))
        return torch.full((len(views), 2), 0.5)

    assert score_adaptively(undecided, torch.zeros(12, 1), 0.5)[1] == 12
    assert sizes == [1, 1, 2, 4, 4]


def test_a_lead_equal_to_the_margin_is_not_enough() -> None:
    assert score_adaptively(itself, torch.tensor([[0.75, 0.25]] * 4), 0.5)[1] == 4


def test_a_single_class_is_settled_at_once() -> None:
    assert score_adaptively(itself, torch.ones(4, 1), 0.5)[1] == 1


@given(views=st.integers(1, 13), classes=st.integers(1, 6), seed=st.integers(0, 999), margin=st.floats(0, 1))
def test_the_result_is_the_sum_of_the_first_views_and_leads_unless_all_were_scored(
    views: int, classes: int, seed: int, margin: float
) -> None:
    scores = scores_of(views, classes, seed)
    sums, looked = score_adaptively(itself, scores, margin)
    torch.testing.assert_close(sums, scores[:looked].sum(0))
    assert looked == views or lead(sums / looked) > margin
    for fewer in (1, 2, 4, 8):
        if fewer < looked:
            assert lead(scores[:fewer].mean(0)) <= margin + 1e-6


@given(views=st.integers(1, 13), seed=st.integers(0, 999), margin=st.floats(0, 1), more=st.floats(0, 1))
def test_a_larger_margin_never_looks_less(views: int, seed: int, margin: float, more: float) -> None:
    scores = scores_of(views, 5, seed)
    at_less, at_more = (score_adaptively(itself, scores, at)[1] for at in sorted((margin, more)))
    assert at_less <= at_more


shapes = st.lists(st.tuples(st.integers(0, 7), st.sampled_from([(2, 3), (2, 4)])), max_size=8)


@given(videos=shapes, size=st.integers(1, 5))
def test_batches_hold_every_view_once_in_order_and_never_two_shapes(
    videos: list[tuple[int, tuple[int, int]]], size: int
) -> None:
    first, given_views = 0, []
    for count, shape in videos:
        values = torch.arange(first, first + count).view(-1, 1, 1).expand(-1, *shape)
        given_views.append(values)
        first += count
    found = [(torch.cat(parts), owners) for parts, owners in batches(given_views, size)]
    assert all(1 <= len(pixels) <= size and len(pixels) == len(owners) for pixels, owners in found)
    views = [
        (owner, int(view[0, 0]), tuple(view.shape))
        for pixels, owners in found
        for owner, view in zip(owners, pixels, strict=True)
    ]
    assert views == [
        (number, int(view[0, 0]), tuple(view.shape))
        for number, views in enumerate(given_views)
        for view in views
    ]


@given(counts=st.lists(st.integers(1, 7), min_size=1, max_size=8), size=st.integers(1, 5))
def test_of_equal_shapes_only_the_last_batch_is_not_full(counts: list[int], size: int) -> None:
    sizes = [len(owners) for _, owners in batches(map(torch.zeros, counts), size)]
    assert sizes[:-1] == [size] * (sum(counts) // size - (sum(counts) % size == 0))


def test_a_video_alone_in_its_batch_is_not_copied() -> None:
    views = torch.zeros(6, 3, 2, 4, 4)
    for (pixels,), _ in batches([views], 4):
        assert pixels.untyped_storage().data_ptr() == views.untyped_storage().data_ptr()
