"""Turn the probabilities of windows into segments, and place their edges by the evidence of tokens.

N windows, K classes, T' tokens along time in a clip.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from videoswin._errors import InputError

Array = NDArray[np.float64]

RELEASE: Final = 0.6
"""A segment lasts while the probability is at least this fraction of the threshold that started it."""

_MIN_STEP: Final = 0.2
"""Smallest difference between two levels of a curve between which an edge is placed."""


@dataclass(frozen=True)
class Span:
    """A part of a video in which a class has a high probability."""

    class_index: int
    """Index of the class, 0 to K - 1."""
    start: float
    """Seconds from the first frame."""
    end: float
    """Seconds from the first frame, > `start`."""
    probability: float
    """Largest probability of the class in this part."""
    peak: float
    """Time of that probability, in seconds."""


@dataclass(frozen=True, eq=False)
class TokenEvidence:
    """The probabilities of the leading classes at the token times of one window."""

    seconds: Array
    """(T',) mean time of the frames of each token, increasing."""
    classes: NDArray[np.int64]
    """(M,) classes with the largest probability at any token."""
    probabilities: Array
    """(T', M)."""


def find_spans(
    probabilities: Array,
    starts: Array,
    ends: Array,
    *,
    threshold: float,
    merge_seconds: float,
    min_seconds: float,
) -> list[Span]:
    """Return the parts of a video in which a class is probable, by hysteresis of each class by itself.

    A part begins where the probability reaches the threshold and extends in both directions while it is at
    least RELEASE times the threshold. A window stands for the time that is closer to its center than to that
    of its neighbors.

    Args:
        probabilities: (N, K).
        starts: (N,) start of each window in seconds, increasing.
        ends: (N,) end of each window.
        threshold: Probability that starts a part, 0 < threshold <= 1.
        merge_seconds: Parts of one class that are at most this far apart are one.
        min_seconds: Shorter parts are left out.

    Returns:
        Spans ordered by start, then by class.
    """
    if not 0 < threshold <= 1:
        raise InputError(f"threshold must be > 0 and <= 1, got {threshold}")
    centers = (starts + ends) / 2
    edges = np.concatenate([starts[:1], (centers[1:] + centers[:-1]) / 2, ends[-1:]])
    spans = []
    for class_index in np.flatnonzero((probabilities >= threshold).any(0)).tolist():
        curve = probabilities[:, class_index]
        runs = [
            (first, stop)
            for first, stop in _runs(curve >= RELEASE * threshold)
            if curve[first:stop].max() >= threshold
        ]
        for first, stop in _merged(runs, edges, merge_seconds):
            if edges[stop] - edges[first] >= min_seconds:
                peak = first + int(curve[first:stop].argmax())
                spans.append(
                    Span(
                        class_index,
                        float(edges[first]),
                        float(edges[stop]),
                        float(curve[peak]),
                        float(centers[peak]),
                    )
                )
    return sorted(spans, key=lambda span: (span.start, span.class_index))


def _runs(is_on: NDArray[np.bool_]) -> Iterator[tuple[int, int]]:
    """Yield (first, stop) of each run of True."""
    changes = np.flatnonzero(np.diff(np.concatenate([[False], is_on, [False]]).astype(np.int8)))
    yield from zip(changes[::2].tolist(), changes[1::2].tolist(), strict=True)


def _merged(runs: list[tuple[int, int]], edges: Array, seconds: float) -> list[tuple[int, int]]:
    merged: list[tuple[int, int]] = []
    for first, stop in runs:
        if merged and edges[first] - edges[merged[-1][1]] <= seconds:
            merged[-1] = (merged[-1][0], stop)
        else:
            merged.append((first, stop))
    return merged


def place_edges(
    spans: Sequence[Span],
    probabilities: Array,
    centers: Array,
    evidence: Sequence[TokenEvidence],
    *,
    reach_seconds: float,
    end_seconds: float,
) -> list[Span]:
    """Move the edges of spans to where the probabilities change, without more model time.

    An edge is where the probability of the class crosses the middle between its lowest and its highest value
    nearby: the mean of the crossings of the windows and of the tokens. Where one span ends and another
    begins, both have the crossing of the difference of their classes.

    Args:
        spans: Result of `find_spans`.
        probabilities: (N, K) of windows.
        centers: (N,) center of each window in seconds.
        evidence: Tokens of all windows, in their order; empty if there are none.
        reach_seconds: Farthest move of an edge.
        end_seconds: End of the video. Edges at its start or end stay there.

    Returns:
        The spans with other edges, in the same order.
    """
    tokens = _Tokens(evidence)

    def crossing(span: Span, *, rising: bool) -> float:
        edge, edge_of_other = ("start", "end") if rising else ("end", "start")
        at = getattr(span, edge)
        other = _neighbor(spans, span, at=at, edge=edge_of_other, reach=reach_seconds)
        if other is not None:
            at = (at + getattr(other, edge_of_other)) / 2
        low, high = at - reach_seconds, at + reach_seconds
        if rising:
            high = min(high, max(span.peak, at))
            low = low if other is None else max(low, min(other.peak, at))
        else:
            low = max(low, min(span.peak, at))
            high = high if other is None else min(high, max(other.peak, at))
        curve = probabilities[:, span.class_index]
        if other is not None:
            curve = curve - probabilities[:, other.class_index]
        inside = (low <= centers) & (centers <= high)
        of_windows = _crossing(centers[inside], curve[inside], rising=rising, near=at)
        of_tokens = _crossing(*tokens.curve(span, other, low, high), rising=rising, near=at)
        found = [time for time in (of_windows, of_tokens) if time is not None]
        return sum(found) / len(found) if found else at

    placed = []
    for span in spans:
        start = crossing(span, rising=True) if span.start > 0 else span.start
        end = crossing(span, rising=False) if span.end < end_seconds else span.end
        placed.append(replace(span, start=start, end=end) if start < end else span)
    return placed


def _neighbor(spans: Sequence[Span], span: Span, *, at: float, edge: str, reach: float) -> Span | None:
    """Return the span of another class with an edge closest to a time and within reach of it."""
    others = [other for other in spans if other.class_index != span.class_index]
    near = [other for other in others if abs(getattr(other, edge) - at) <= reach]
    return min(near, key=lambda other: abs(getattr(other, edge) - at), default=None)


def _crossing(seconds: Array, values: Array, *, rising: bool, near: float) -> float | None:
    """Return the time, closest to `near`, at which a curve crosses the middle of its range.

    Values in between are interpolated. Return None if the curve does not cross in this direction, or hardly
    changes.
    """
    if len(values) < 2 or values.max() - values.min() < _MIN_STEP:
        return None
    above = values - (values.max() + values.min()) / 2
    before, after = above[:-1], above[1:]
    crosses = (before < 0) & (after >= 0) if rising else (before > 0) & (after <= 0)
    positions = np.flatnonzero(crosses)
    if not len(positions):
        return None
    step = before[positions] / (before[positions] - after[positions])
    times = seconds[positions] + step * (seconds[positions + 1] - seconds[positions])
    return float(times[np.abs(times - near).argmin()])


class _Tokens:
    """Token probabilities of a whole video, by time."""

    def __init__(self, evidence: Sequence[TokenEvidence]) -> None:
        self._evidence = evidence
        self._first = np.array([each.seconds[0] for each in evidence])
        self._last = np.array([each.seconds[-1] for each in evidence])

    def curve(self, span: Span, other: Span | None, start: float, end: float) -> tuple[Array, Array]:
        """Return token times from start to end, and the probability of a class, minus that of another one.

        Values of several windows at one time are averaged.
        """
        seconds: list[float] = []
        values: list[float] = []
        for index in np.flatnonzero((self._last >= start) & (self._first < end)).tolist():
            tokens = self._evidence[index]
            inside = (tokens.seconds >= start) & (tokens.seconds < end)
            curve = _of_class(tokens, span.class_index)
            if other is not None:
                curve = curve - _of_class(tokens, other.class_index)
            seconds += tokens.seconds[inside].tolist()
            values += curve[inside].tolist()
        if not seconds:
            return np.zeros(0), np.zeros(0)
        times, places = np.unique(np.round(seconds, 6), return_inverse=True)
        return times, np.bincount(places, weights=values) / np.bincount(places)


def _of_class(tokens: TokenEvidence, class_index: int) -> Array:
    """Return the probability of a class at each token; 0 if it is not among the leading ones."""
    found = np.flatnonzero(tokens.classes == class_index)
    return tokens.probabilities[:, found[0]] if len(found) else np.zeros(len(tokens.seconds))
