"""Segments follow from the probabilities of windows, and their edges from those of tokens."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from videoswin._errors import InputError
from videoswin.analysis.segments import TokenEvidence, find_spans, place_edges

HOP, WINDOW = 1.0, 2.0


def spans_of(probabilities: list[list[float]], *, threshold=0.5, merge_seconds=0.0, min_seconds=0.0):
    table = np.array(probabilities)
    starts = HOP * np.arange(len(table))
    return find_spans(
        table,
        starts,
        starts + WINDOW,
        threshold=threshold,
        merge_seconds=merge_seconds,
        min_seconds=min_seconds,
    )


def column(*values: float) -> list[list[float]]:
    return [[value] for value in values]


def test_a_segment_begins_at_the_threshold_and_lasts_to_three_fifths_of_it() -> None:
    (span,) = spans_of(column(0.0, 0.31, 0.6, 0.31, 0.29, 0.0))
    assert (span.start, span.end) == (1.5, 4.5)
    assert (span.probability, span.peak) == (0.6, 3.0)


def test_below_the_threshold_there_is_no_segment() -> None:
    assert spans_of(column(0.4, 0.49, 0.4)) == []


def test_the_first_and_the_last_window_reach_to_the_ends_of_the_video() -> None:
    (span,) = spans_of(column(0.9, 0.9))
    assert (span.start, span.end) == (0.0, 3.0)


def test_near_segments_of_one_class_are_merged() -> None:
    dip = column(0.9, 0.9, 0.1, 0.9)
    assert len(spans_of(dip)) == 2
    assert len(spans_of(dip, merge_seconds=1.0)) == 1


def test_short_segments_are_left_out() -> None:
    assert len(spans_of(column(0.1, 0.9, 0.1, 0.9, 0.9, 0.1), min_seconds=1.5)) == 1


def test_classes_are_independent_and_ordered_by_start() -> None:
    spans = spans_of([[0.1, 0.9], [0.6, 0.9], [0.9, 0.1]])
    assert [(span.class_index, span.start) for span in spans] == [(1, 0.0), (0, 1.5)]


@given(st.lists(st.floats(0, 1), min_size=1, max_size=30), st.floats(0.05, 1.0))
def test_every_window_above_the_threshold_is_in_a_segment_and_segments_do_not_touch(
    values: list[float], threshold: float
) -> None:
    spans = spans_of(column(*values), threshold=threshold)
    centers = HOP * np.arange(len(values)) + WINDOW / 2
    for center, value in zip(centers, values, strict=True):
        if value >= threshold:
            assert sum(span.start <= center <= span.end for span in spans) == 1
    assert all(a.end < b.start for a, b in pairwise(spans))


@pytest.mark.parametrize("threshold", [0.0, -1.0, 1.5, float("nan")])
def test_a_threshold_out_of_range_is_refused(threshold: float) -> None:
    with pytest.raises(InputError, match="threshold must be > 0 and <= 1"):
        spans_of(column(0.5), threshold=threshold)


def evidence(change: float, *, classes=(0,), step: float = 0.25) -> list[TokenEvidence]:
    """Tokens of overlapping windows: class 0 is certain until the change, class 1 after it."""
    windows = []
    for start in np.arange(0, 9, HOP):
        seconds = start + step * np.arange(8)
        before = (seconds < change).astype(float)
        curves = np.stack([before, 1 - before], axis=1)[:, list(classes)]
        windows.append(TokenEvidence(seconds, np.array(classes), curves))
    return windows


def placed(probabilities: list[list[float]], evidence: list[TokenEvidence]):
    spans = spans_of(probabilities)
    return place_edges(
        spans,
        np.array(probabilities),
        HOP * np.arange(len(probabilities)) + WINDOW / 2,
        evidence,
        reach_seconds=WINDOW + HOP,
        end_seconds=HOP * (len(probabilities) - 1) + WINDOW,
    )


@given(st.floats(2.5, 6.5))
def test_the_edge_of_a_ramp_is_its_middle(change: float) -> None:
    """The probability of a window is the fraction of it before the change."""
    starts = HOP * np.arange(9)
    curve = np.clip((change - starts) / WINDOW, 0, 1)
    (span,) = placed(column(*curve.tolist()), [])
    assert span.start == 0.0
    assert span.end == pytest.approx(change, abs=1e-9)


@given(st.integers(10, 28))
def test_an_edge_is_between_the_crossings_of_windows_and_of_tokens(token: int) -> None:
    change = token * 0.25
    curve = [0.9 if start + WINDOW / 2 < change else 0.1 for start in range(9)]
    (without,), (span,) = placed(column(*curve), []), placed(column(*curve), evidence(change))
    assert span.start == 0.0
    assert span.end == pytest.approx((without.end + change - 0.125) / 2)


def test_two_neighbors_share_the_edge_between_them() -> None:
    probabilities = [[0.9, 0.1]] * 4 + [[0.4, 0.4]] + [[0.1, 0.9]] * 4
    assert spans_of(probabilities)[0].end != spans_of(probabilities)[1].start
    first, second = placed(probabilities, evidence(5.25, classes=(0, 1)))
    assert first.end == second.start


def test_without_a_change_in_the_evidence_an_edge_stays() -> None:
    probabilities = column(0.5, 0.5, 0.5, 0.4, 0.4, 0.4, 0.4, 0.4, 0.4)
    assert placed(probabilities, evidence(99.0)) == spans_of(probabilities)
