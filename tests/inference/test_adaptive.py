"""Adaptive view sampling: when it stops, and that the result is that of the scored views."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from videoswin.inference.adaptive import lead, score_adaptively


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
