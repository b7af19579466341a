"""What happens when in a video: timeline, Timeline and Segment."""

from __future__ import annotations

import math
import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, Final, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from videoswin._errors import InputError
from videoswin.analysis.segments import Span, TokenEvidence, find_spans, place_edges
from videoswin.analysis.windows import VideoWindow, clip_seconds, seconds_ahead, sliding_windows
from videoswin.inference.backends.pytorch import PyTorchBackend
from videoswin.inference.predictor import Predictor, require_finite_scores
from videoswin.model.config import PATCH
from videoswin.video.sampling import measure_rate
from videoswin.video.stream import VideoStream

THRESHOLD: Final = 0.3
"""Default probability that starts a segment."""

_WINDOWS_AHEAD: Final = 4
"""Windows that are decoded ahead of the model."""

_LEADING_CLASSES: Final = 8
"""Classes of a window whose token probabilities are kept, to place the edges of segments."""

_Item = TypeVar("_Item")


@dataclass(frozen=True, kw_only=True)
class Segment:
    """A part of a video with one label."""

    start_seconds: float
    """Start in seconds from the first frame of the video."""
    end_seconds: float
    """End in seconds; the frame displayed at this time is not part of the segment."""
    start_frame: int
    """Number of the first frame of the segment, from 0."""
    end_frame: int
    """Number of the frame after the last frame of the segment."""
    label: str
    """Class name."""
    probability: float
    """Largest probability of the label in a window of the segment."""
    peak_seconds: float
    """Time of that probability."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Timeline:
    """The segments of one video, and the probabilities of its windows."""

    path: str
    """The video."""
    model: str
    """Name or file of the checkpoint."""
    protocol: str
    """Name of the protocol of a window's views."""
    labels: tuple[str, ...] = field(repr=False)
    """Class names in the order of the probabilities."""
    duration_seconds: float
    """Duration of the video."""
    num_frames: int
    """Number of frames in the video."""
    fps: float
    """Frames per second as stated by the file, or by the median step."""
    variable_rate: bool
    """Whether a frame is displayed more than half a step from where `fps` would put it."""
    window_seconds: float
    """Length of a window."""
    hop_seconds: float
    """Time between the starts of windows."""
    threshold: float
    """Probability that starts a segment, in (0, 1]."""
    min_seconds: float
    """Length of the shortest segment."""
    segments: tuple[Segment, ...]
    """The segments in the order of their start."""
    starts: NDArray[np.float64] = field(repr=False)
    """(N,) start of each window in seconds."""
    ends: NDArray[np.float64] = field(repr=False)
    """(N,) end of each window."""
    probabilities: NDArray[np.float32] = field(repr=False)
    """(N, K) probabilities of each window."""
    damage: str | None = None
    """What could not be read; None if everything could."""
    notes: tuple[str, ...] = ()
    """Properties of the file that are no damage but may reduce accuracy, such as HDR."""

    @property
    def centers(self) -> NDArray[np.float64]:
        """(N,) center of each window in seconds."""
        return (self.starts + self.ends) / 2

    def to_dict(self) -> dict[str, Any]:
        """Return the timeline without the probabilities of windows, as values for JSON."""
        return {
            "format": "videoswin-timeline",
            "version": 1,
            "path": self.path,
            "model": self.model,
            "protocol": self.protocol,
            "duration_seconds": self.duration_seconds,
            "num_frames": self.num_frames,
            "fps": self.fps,
            "variable_rate": self.variable_rate,
            "window_seconds": self.window_seconds,
            "hop_seconds": self.hop_seconds,
            "threshold": self.threshold,
            "min_seconds": self.min_seconds,
            "damage": self.damage,
            "notes": list(self.notes),
            "segments": [vars(segment) for segment in self.segments],
        }


def timeline(
    path: str | os.PathLike[str],
    predictor: Predictor,
    *,
    window_seconds: float | None = None,
    hop_seconds: float | None = None,
    threshold: float = THRESHOLD,
    min_seconds: float | None = None,
    known: Sequence[WindowScores] = (),
    on_window: Callable[[WindowScores], None] | None = None,
) -> Timeline:
    """Find what happens when in a video of any length, in one pass and constant memory.

    The predictor's clip slides over the video. The probabilities of a window equal those of the predictor for
    that part of the file.

    Args:
        path: Video file.
        predictor: Model and views of a window; the protocol fast-1x1 has one view.
        window_seconds: Length of a window; None is the length of a clip, the shortest one allowed.
        hop_seconds: Time between the starts of windows; None is half a window.
        threshold: Probability that starts a segment, 0 < threshold <= 1; it lasts while the probability is at
            least 0.6 of it.
        min_seconds: Shortest segment; None is one hop.
        known: Scores of the first windows from an interrupted call, which are not computed again.
        on_window: Called with the scores of each further window.

    Raises:
        VideoError: The video cannot be read.
        InputError: A value is out of range, or the window is shorter than a clip.
    """
    if not 0 < threshold <= 1:
        raise InputError(f"threshold must be > 0 and <= 1, got {threshold}")
    with VideoStream(path, limits=predictor.limits) as probe:
        span = clip_seconds(predictor.clip, probe.fps)
    window = span if window_seconds is None else window_seconds
    if not span * 0.999 <= window < math.inf:
        raise InputError(
            f"window_seconds must be at least {span:.3g}, the length of a clip of this model, got {window:g}"
        )
    hop = window / 2 if hop_seconds is None else hop_seconds
    shortest = hop if min_seconds is None else min_seconds
    if not 0 <= shortest < math.inf:
        raise InputError(f"min_seconds must be >= 0, got {shortest}")

    found = scan(path, predictor, window_seconds=window, hop_seconds=hop, known=known, on_window=on_window)
    spans = found.spans(threshold=threshold, min_seconds=shortest)
    return Timeline(
        path=os.fspath(path),
        model=predictor.name,
        protocol=predictor.protocol,
        labels=predictor.labels,
        duration_seconds=found.duration_seconds,
        num_frames=len(found.frame_times),
        fps=found.fps,
        variable_rate=measure_rate(found.frame_times, [found.fps])[1] is not None,
        window_seconds=window,
        hop_seconds=hop,
        threshold=threshold,
        min_seconds=shortest,
        segments=tuple(found.segment(span, predictor.labels) for span in spans),
        starts=found.starts,
        ends=found.ends,
        probabilities=found.probabilities,
        damage=found.damage,
        notes=found.notes,
    )


@dataclass(frozen=True, eq=False)
class WindowScores:
    """What a model says about one window."""

    start_seconds: float
    """Start in seconds from the first frame of the video."""
    end_seconds: float
    """End in seconds from the first frame of the video."""
    probabilities: NDArray[np.float32]
    """(K,)."""
    evidence: tuple[TokenEvidence, ...]
    """Tokens of each clip; empty if the backend has none."""

    def to_dict(self, labels: Sequence[str], k: int = 5) -> dict[str, Any]:
        """Return start, end and the k most probable labels, as values for JSON."""
        order = np.argsort(-self.probabilities, kind="stable")[:k].tolist()
        return {
            "start_seconds": self.start_seconds,
            "end_seconds": self.end_seconds,
            "top": [{"label": labels[i], "probability": float(self.probabilities[i])} for i in order],
        }


@dataclass(frozen=True, kw_only=True, eq=False)
class Scan:
    """What a model says about all windows of a video."""

    windows: list[WindowScores] = field(repr=False)
    """Scores of the windows in the order of their start."""
    frame_times: NDArray[np.float64] = field(repr=False)
    """Display time of every frame in seconds."""
    fps: float
    """Frames per second, as in Timeline."""
    window_seconds: float
    """Length of a window."""
    hop_seconds: float
    """Time between the starts of windows."""
    damage: str | None
    """What could not be read; None if everything could."""
    notes: tuple[str, ...]
    """Properties of the file, as in Timeline."""

    @property
    def starts(self) -> NDArray[np.float64]:
        """(N,) start of each window in seconds."""
        return np.array([window.start_seconds for window in self.windows])

    @property
    def ends(self) -> NDArray[np.float64]:
        """(N,) end of each window in seconds."""
        return np.array([window.end_seconds for window in self.windows])

    @property
    def probabilities(self) -> NDArray[np.float32]:
        """(N, K)."""
        return np.stack([window.probabilities for window in self.windows])

    @property
    def duration_seconds(self) -> float:
        """Duration of the video in seconds; the last frame counts as 1 / fps."""
        return float(self.frame_times[-1]) + 1 / self.fps

    def spans(self, *, threshold: float, min_seconds: float) -> list[Span]:
        """Return the spans of all classes, as described for `timeline`."""
        probabilities = self.probabilities.astype(np.float64)
        spans = find_spans(
            probabilities,
            self.starts,
            self.ends,
            threshold=threshold,
            merge_seconds=self.hop_seconds,
            min_seconds=min(min_seconds, self.duration_seconds),
        )
        return place_edges(
            spans,
            probabilities,
            (self.starts + self.ends) / 2,
            [tokens for window in self.windows for tokens in window.evidence],
            reach_seconds=self.window_seconds + self.hop_seconds,
            end_seconds=self.duration_seconds,
        )

    def segment(self, span: Span, labels: tuple[str, ...]) -> Segment:
        """Return a segment that begins and ends with the display of a frame."""
        slack = 1e-6
        first, stop = np.searchsorted(self.frame_times, [span.start - slack, span.end - slack]).tolist()
        first = min(first, len(self.frame_times) - 1)
        stop = max(stop, first + 1)
        is_last = stop == len(self.frame_times)
        return Segment(
            start_seconds=float(self.frame_times[first]),
            end_seconds=self.duration_seconds if is_last else float(self.frame_times[stop]),
            start_frame=first,
            end_frame=stop,
            label=labels[span.class_index],
            probability=span.probability,
            peak_seconds=span.peak,
        )


def scan(
    path: str | os.PathLike[str],
    predictor: Predictor,
    *,
    window_seconds: float,
    hop_seconds: float,
    known: Sequence[WindowScores] = (),
    on_window: Callable[[WindowScores], None] | None = None,
) -> Scan:
    """Score all windows of a video; see `timeline`.

    Args:
        path: Video file.
        predictor: Model and views of a window.
        window_seconds: Length of a window.
        hop_seconds: Time between the starts of windows.
        known: Scores of the first windows from an interrupted scan with the same arguments, which are not
            computed again.
        on_window: Called with the scores of each further window.
    """
    scored = list(known)
    ahead = seconds_ahead(window_seconds, hop_seconds)
    with VideoStream(path, ahead_seconds=ahead, limits=predictor.limits) as stream:
        windows = sliding_windows(
            stream, predictor.clip, predictor.views, window_seconds=window_seconds, hop_seconds=hop_seconds
        )
        for window in islice(read_ahead(windows, _WINDOWS_AHEAD), len(known), None):
            scores = score_window(predictor, window)
            scored.append(scores)
            if on_window is not None:
                on_window(scores)
        return Scan(
            windows=scored,
            frame_times=np.array(stream.times),
            fps=stream.fps,
            window_seconds=window_seconds,
            hop_seconds=hop_seconds,
            damage=stream.damage,
            notes=stream.notes,
        )


@torch.inference_mode()
def score_window(predictor: Predictor, window: VideoWindow) -> WindowScores:
    """Return the probabilities of a window, as of `Predictor.score`, and of its tokens in the same pass."""
    backend, part = predictor.backend, (window.start_seconds, window.end_seconds)
    if not isinstance(backend, PyTorchBackend) or predictor.views.is_adaptive:
        return WindowScores(*part, predictor.score(window.pixels).numpy(), ())
    features = [backend.features(batch) for batch in torch.split(window.pixels, predictor.views_per_batch)]
    logits = torch.cat([backend.model.forward_head(batch) for batch in features]).float().cpu()  # (V, K)
    averages_logits = predictor.views.average == "logits"
    total = torch.zeros(logits.shape[1])
    for view in logits if averages_logits else predictor.to_probabilities(logits):
        total += view  # one after the other, as in Predictor
    mean = total / len(logits)
    probabilities = predictor.to_probabilities(mean) if averages_logits else mean
    require_finite_scores(probabilities, predictor.name)
    # The head is linear, so that the mean of a token over space comes first: (V, T', K).
    tokens = torch.cat([backend.model.get_classifier()(batch.mean((2, 3))) for batch in features]).float()
    evidence = _leading(predictor.to_probabilities(tokens).cpu().double().numpy(), window.times)
    return WindowScores(*part, probabilities.numpy(), evidence)


def _leading(tokens: NDArray[np.float64], times: NDArray[np.float64]) -> tuple[TokenEvidence, ...]:
    """Return the evidence of each clip of a window: the mean of its views, for the leading classes.

    Args:
        tokens: (V, T', K) probabilities of tokens along time.
        times: (V, T) display times of the frames.
    """
    evidence = []
    for clip_times in np.unique(times, axis=0):
        curves = tokens[(times == clip_times).all(1)].mean(0)  # (T', K)
        leading = np.argsort(-curves.max(0), kind="stable")[:_LEADING_CLASSES]
        step = PATCH[0]  # frames per token
        seconds = [clip_times[first : first + step].mean() for first in range(0, len(clip_times), step)]
        evidence.append(TokenEvidence(np.array(seconds), leading, curves[:, leading]))
    return tuple(evidence)


def read_ahead(items: Iterator[_Item], count: int) -> Iterator[_Item]:
    """Yield the items of an iterator that runs up to `count` items ahead in a thread."""
    with ThreadPoolExecutor(1, thread_name_prefix="decode") as thread:
        waiting: deque[Future[_Item | None]] = deque()
        try:
            while True:
                while len(waiting) < count:
                    waiting.append(thread.submit(next, items, None))
                item = waiting.popleft().result()
                if item is None:
                    return
                yield item
        finally:
            for future in waiting:
                future.cancel()
