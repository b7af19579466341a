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

Floats = NDArray[np.float64]

RELEASE: Final = 0.6
"""A segment lasts while the probability is at least this fraction of the threshold that started it."""

_MIN_TOKENS: Final = 4
"""Fewest token times around an edge from which it is placed."""


@dataclass(frozen=True)
class Span:
    """A part of a video in which a class has a high probability."""

    class_index: int
    start: float
    """Seconds from the first frame."""
    end: float
    probability: float
    """Largest smoothed probability of the class in this part."""
    peak: float
    """Time of that probability, in seconds."""


@dataclass(frozen=True, eq=False)
class TokenEvidence:
    """The probabilities of the leading classes at the token times of one window."""

    seconds: Floats
    """(T',) start of each token in seconds from the first frame, increasing."""
    classes: NDArray[np.int64]
    """(M,) classes with the largest probability at any token."""
    probabilities: Floats
    """(T', M)."""


def smooth(probabilities: Floats, count: int) -> Floats:
    """Return the moving average over `count` windows, an odd number; fewer at both ends: (N, K) -> (N, K)."""
    if count < 1 or count % 2 == 0:
        raise ValueError(f"count must be odd and >= 1, got {count}")
    sums = np.cumsum(np.vstack([np.zeros((1, probabilities.shape[1])), probabilities]), axis=0)
    position = np.arange(len(probabilities))
    first = np.maximum(position - count // 2, 0)
    stop = np.minimum(position + count // 2 + 1, len(probabilities))
    return np.asarray((sums[stop] - sums[first]) / (stop - first)[:, None])


def find_spans(
    probabilities: Floats,
    starts: Floats,
    ends: Floats,
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
        probabilities: (N, K), smoothed.
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


def _merged(runs: list[tuple[int, int]], edges: Floats, seconds: float) -> list[tuple[int, int]]:
    merged: list[tuple[int, int]] = []
    for first, stop in runs:
        if merged and edges[first] - edges[merged[-1][1]] <= seconds:
            merged[-1] = (merged[-1][0], stop)
        else:
            merged.append((first, stop))
    return merged


def place_edges(
    spans: Sequence[Span], evidence: Sequence[TokenEvidence], *, reach_seconds: float, end_seconds: float
) -> list[Span]:
    """Move the edges of spans to where the probability of tokens changes most, without more model time.

    An edge is the split of the token times around it into two parts with a constant probability each, by
    least squares. Where one span ends and another begins, both have the split of the difference of their
    classes.

    Args:
        spans: Result of `find_spans`.
        evidence: Tokens of all windows, in their order.
        reach_seconds: Farthest move of an edge.
        end_seconds: End of the video. Edges at its start or end stay there.

    Returns:
        The spans with other edges, in the same order.
    """
    tokens = _Tokens(evidence)
    placed = []
    for span in spans:
        before = _neighbor(spans, span, at=span.start, edge="end", reach=reach_seconds)
        after = _neighbor(spans, span, at=span.end, edge="start", reach=reach_seconds)
        start, end = span.start, span.end
        middle = (span.start + span.end) / 2
        if start > 0:
            about = start if before is None else (start + before.end) / 2
            low = about - reach_seconds if before is None else max(about - reach_seconds, _middle(before))
            curve = tokens.curve(span, before, low, min(about + reach_seconds, middle))
            start = _split(*curve, rising=True, otherwise=about)
        if end < end_seconds:
            about = end if after is None else (end + after.start) / 2
            high = about + reach_seconds if after is None else min(about + reach_seconds, _middle(after))
            curve = tokens.curve(span, after, max(about - reach_seconds, middle), high)
            end = _split(*curve, rising=False, otherwise=about)
        placed.append(replace(span, start=start, end=end) if start < end else span)
    return placed


def _middle(span: Span) -> float:
    return (span.start + span.end) / 2


def _neighbor(spans: Sequence[Span], span: Span, *, at: float, edge: str, reach: float) -> Span | None:
    """Return the span of another class with an edge closest to a time and within reach of it."""
    others = [other for other in spans if other.class_index != span.class_index]
    near = [other for other in others if abs(getattr(other, edge) - at) <= reach]
    return min(near, key=lambda other: abs(getattr(other, edge) - at), default=None)


def _split(seconds: Floats, values: Floats, *, rising: bool, otherwise: float) -> float:
    """Return the time that splits a curve into two constant parts by least squares.

    Return `otherwise` if there are too few values, or the best split goes in the other direction.
    """
    if len(values) < _MIN_TOKENS:
        return otherwise
    sums = np.cumsum(values)
    left = np.arange(1, len(values))
    right = len(values) - left
    step = (sums[-1] - sums[:-1]) / right - sums[:-1] / left
    gain = np.where((step > 0) == rising, left * right * step**2, 0.0)
    best = int(gain.argmax())
    return float(seconds[best + 1]) if gain[best] > 0 else otherwise


class _Tokens:
    """Token probabilities of a whole video, by time."""

    def __init__(self, evidence: Sequence[TokenEvidence]) -> None:
        self._evidence = evidence
        self._first = np.array([each.seconds[0] for each in evidence])
        self._last = np.array([each.seconds[-1] for each in evidence])

    def curve(self, span: Span, other: Span | None, start: float, end: float) -> tuple[Floats, Floats]:
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


def _of_class(tokens: TokenEvidence, class_index: int) -> Floats:
    """Return the probability of a class at each token; 0 if it is not among the leading ones."""
    found = np.flatnonzero(tokens.classes == class_index)
    return tokens.probabilities[:, found[0]] if len(found) else np.zeros(len(tokens.seconds))

