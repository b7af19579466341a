"""Classify the action in a video file: Predictor.

Legend: V views of a video (clips x crops), T frames, H W height and width of a view, K classes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Final

import torch
from torch import Tensor

from videoswin._errors import InputError, NonFiniteScoresError, VideoError
from videoswin.acceleration import resolve_device
from videoswin.inference.backends import Backend, Precision, is_exported, load_backend
from videoswin.inference.backends.pytorch import PyTorchBackend
from videoswin.inference.prediction import Prediction
from videoswin.inference.prefetch import copy_to_device, decoding_threads, load_ahead, wait_for_copy
from videoswin.model.swin import VideoSwin
from videoswin.video.limits import ReadLimits
from videoswin.video.spec import ClipSpec, ViewPlan, apply_protocol
from videoswin.video.views import Views, load_views
from videoswin.weights.checkpoint import Checkpoint

VIEWS_PER_BATCH: Final = {"cpu": 4, "cuda": 12}
"""Batch size in views, by device type; memory grows with it. A few views fill a CPU; 12 are one video in the
published protocol."""


class Predictor:
    """A model together with everything needed to classify a video with it.

    Attributes: backend (Backend, the model), clip (ClipSpec), views (ViewPlan: which views of a video are
    scored), labels, multi_label, device, name, protocol, views_per_batch (batch size in views), limits
    (ReadLimits).

    Example:
        Predictor.from_pretrained("camera-motion")("clip.mp4").top(5)
    """

    def __init__(
        self,
        checkpoint_or_backend: Checkpoint | Backend,
        *,
        device: str = "auto",
        protocol: str | None = None,
        precision: Precision | None = None,
        limits: ReadLimits | None = None,
    ) -> None:
        """Create a predictor.

        Args:
            checkpoint_or_backend: Checkpoint, which PyTorch then runs, or a model that is already loaded in a
                runtime, such as an exported file (see load_backend).
            device: `auto` (a GPU if there is one), `cpu`, `cuda`, `cuda:1`, `mps`; a backend is on its own.
            protocol: One of videoswin.video.spec.PROTOCOLS; None is the checkpoint's own clip and views.
            precision: Precision of weights and activations, default `fp32`; a backend has its own. Scores
                are always float32.
            limits: Upper bounds for reading one video; None is ReadLimits().
        """
        if isinstance(checkpoint_or_backend, Checkpoint):
            self.backend: Backend = PyTorchBackend(
                checkpoint_or_backend, resolve_device(device), precision or "fp32"
            )
        else:
            self.backend = checkpoint_or_backend
            _require_device_and_precision(self.backend, device, precision)
        metadata, self.device = self.backend.metadata, self.backend.device
        self.limits = limits or ReadLimits()
        self.views_per_batch = VIEWS_PER_BATCH.get(self.device.type, VIEWS_PER_BATCH["cpu"])
        self.name = metadata.name
        self.labels = metadata.labels
        self.multi_label = metadata.multi_label
        self.clip: ClipSpec = metadata.clip
        self.views: ViewPlan = metadata.views
        if protocol is not None:
            self.clip, self.views = apply_protocol(protocol, metadata.clip)
        self.protocol = protocol or metadata.protocol
        if self.multi_label and self.views.is_adaptive:
            raise InputError(
                f"the adaptive protocol {self.protocol} needs a single-label model, but {self.name} is "
                "multi-label; use a protocol such as official-4x3"
            )

    @classmethod
    def from_pretrained(
        cls,
        name_or_path: str | Path,
        *,
        device: str = "auto",
        protocol: str | None = None,
        precision: Precision | None = None,
        license: str | None = None,
        limits: ReadLimits | None = None,
        trust: bool = False,
    ) -> Predictor:
        """Load the predictor of a catalog name, a bundled name or a file.

        Other arguments are those of the constructor; `auto` is the CPU for an exported file.

        Args:
            name_or_path: Catalog name, bundled name, file in any layout (see Checkpoint.load), or a file
                written by `videoswin export`: .onnx, .xml (OpenVINO), .pt2 (torch.export).
            license: License of restricted weights, repeated to accept it, e.g. "CC-BY-NC-4.0".
            trust: Also load a .pt2 file that can run code on this machine, e.g. one compiled by AOTInductor.
        """
        source: Checkpoint | Backend
        if is_exported(name_or_path):
            # Most exported files are for CPUs, so a GPU has to be requested.
            target = resolve_device("cpu" if device == "auto" else device)
            source = load_backend(name_or_path, target, trust=trust)
        else:
            source = Checkpoint.load(name_or_path, license=license)
        return cls(source, device=device, protocol=protocol, precision=precision, limits=limits)

    @property
    def model(self) -> VideoSwin:
        """The VideoSwin of a checkpoint, in eval mode, to add hooks or to compile it in place.

        After a change of its weights, or for another model, create a new Predictor.

        Raises:
            AttributeError: The backend is not PyTorch's, but an exported file or another runtime.
        """
        if not isinstance(self.backend, PyTorchBackend):
            raise AttributeError(f"{self.name} has no PyTorch model, because it runs in another backend")
        return self.backend.model

    def __call__(self, path: str | Path) -> Prediction:
        """Classify the video at `path`; raise VideoError if it cannot be read."""
        views = self.load(path)
        (scores,), (num_scored,) = self.score_videos([views.pixels], 1)
        return self._prediction(path, views, scores, num_scored)

    def predict_all(
        self, paths: Iterable[str | Path], *, threads: int | None = None
    ) -> Iterator[Prediction | VideoError]:
        """Yield a Prediction or VideoError per path, in order; the next videos are decoded during scoring.

        `threads` videos are decoded at a time; default: see decoding_threads.
        """
        # On a CPU, batches of several videos gain too little to let rounding depend on the batch.
        together = 1 if self.device.type == "cpu" else max(1, self.views_per_batch // self.views.num_views)
        threads = decoding_threads(self.device) if threads is None else threads
        for group in load_ahead(self._load_to_device, paths, threads=threads, together=together):
            videos = [
                None if isinstance(views, VideoError) else wait_for_copy(views.pixels) for _, views in group
            ]
            scores, num_scored = self.score_videos(videos, len(group))
            for index, (path, views) in enumerate(group):
                if isinstance(views, VideoError):
                    yield views
                else:
                    yield self._prediction(path, views, scores[index], num_scored[index])

    def load(
        self, path: str | Path, *, start_seconds: float | None = None, end_seconds: float | None = None
    ) -> Views:
        """Load the views that `self.clip` and the plan `self.views` define, with `load_views`.

        Args:
            path: Video file.
            start_seconds: Start of the part to load; None is the start of the video.
            end_seconds: End of the part; None is the end of the video.

        Returns:
            The views, with pixels (V, 3, T, H, W) uint8.

        Raises:
            VideoError: The video cannot be read or exceeds `self.limits`, or the part is outside of it.
        """
        return load_views(
            path,
            self.clip,
            self.views,
            start_seconds=start_seconds,
            end_seconds=end_seconds,
            limits=self.limits,
        )

    def score(self, views: Views | Tensor) -> Tensor:
        """Return the probabilities (K,) of one video on the CPU: the mean over its views.

        If the plan, `self.views`, has `average="logits"`, logits are averaged instead.

        Args:
            views: What `load` returns, or its pixels (V, 3, T, H, W) uint8. An adaptive plan may score only
                the first ones.

        Raises:
            NonFiniteScoresError: The scores have NaN or infinity, e.g. because weights are damaged.
        """
        pixels = views.pixels if isinstance(views, Views) else views
        (scores,), _ = self.score_videos([pixels], 1)
        return require_finite_scores(scores, self.name)

    def score_videos(
        self, videos: Iterable[Tensor | None], num_videos: int, *, views_per_batch: int | None = None
    ) -> tuple[Tensor, list[int]]:
        """Return the scores (num_videos, K) of several videos as `score` does, and the views scored of each.

        Args:
            videos: Pixels of each video; None for a video without pixels, which has scores of 0 and 0 views.
                An iterator may load them one after another: only those of one batch are kept.
            num_videos: Number of videos.
            views_per_batch: Batch size in views, which videos share; default `self.views_per_batch`.
        """
        plan = self.views
        sums = torch.zeros(num_videos, len(self.labels), device=self.device)
        num_scored = torch.zeros(num_videos, dtype=torch.long)
        if plan.margin < 1:  # adaptive: no lead is larger than 1
            for index, pixels in enumerate(videos):
                if pixels is not None:
                    sums[index], num_scored[index] = score_adaptively(self._score_views, pixels, plan.margin)
        else:
            for parts, owners in batches(videos, views_per_batch or self.views_per_batch):
                indices = torch.tensor(owners)  # (V,)
                # The views of a single video are not copied.
                scores = self._score_views(torch.cat(parts) if len(parts) > 1 else parts[0])  # (V, K)
                sums.index_add_(0, indices.to(self.device), scores)
                num_scored += torch.bincount(indices, minlength=num_videos)
        means = sums.cpu() / num_scored.clamp(min=1)[:, None]
        if plan.average == "logits":
            means = self.to_probabilities(means) * num_scored.bool()[:, None]
        return means, num_scored.tolist()

    def _score_views(self, pixels: Tensor) -> Tensor:
        """Return what is averaged over views: logits or probabilities (V, K), float32 on the device."""
        if pixels.dtype != torch.uint8 or pixels.ndim != 5 or pixels.shape[1] != 3:
            got = f"{pixels.dtype} {tuple(pixels.shape)}"
            raise ValueError(f"views must be uint8 (V, 3, T, H, W), as Predictor.load gives, got {got}")
        logits = self.backend(pixels).float()
        return logits if self.views.average == "logits" else self.to_probabilities(logits)

    def to_probabilities(self, logits: Tensor) -> Tensor:
        """Return softmax or, for a multi-label model, sigmoid of logits (..., K)."""
        return logits.sigmoid() if self.multi_label else logits.softmax(-1)

    def _load_to_device(self, path: str | Path) -> Views:
        views = self.load(path)
        return replace(views, pixels=copy_to_device(views.pixels, self.device))

    def _prediction(self, path: str | Path, views: Views, scores: Tensor, num_scored: int) -> Prediction:
        return Prediction(
            path=str(path),
            model=self.name,
            protocol=self.protocol,
            labels=self.labels,
            probabilities=require_finite_scores(scores, self.name),
            duration_seconds=views.duration_seconds,
            damage=views.damage,
            views_used=num_scored if self.views.is_adaptive else None,
            multi_label=self.multi_label,
            # The first views of an adaptive protocol have one view of each clip.
            seconds_seen=views.seconds_seen * min(1.0, num_scored / self.views.clips),
            notes=views.notes,
        )


def batches(videos: Iterable[Tensor | None], size: int) -> Iterator[tuple[list[Tensor], list[int]]]:
    """Group the views of successive videos into batches of `size` views.

    Only views of equal shape share a batch; a batch ends early if the next video has another shape.

    Args:
        videos: Pixels (V, 3, T, H, W) of each video; None for a video without pixels.
        size: Batch size in views.

    Yields:
        The views of a batch, one tensor for each of its videos, and the index of the video of each view.
    """
    parts: list[Tensor] = []
    owners: list[int] = []
    for index, pixels in enumerate(videos):
        if pixels is None:
            continue
        if parts and pixels.shape[1:] != parts[0].shape[1:]:
            yield parts, owners
            parts, owners = [], []
        rest = pixels
        while len(rest):
            parts.append(rest[: size - len(owners)])
            owners += [index] * len(parts[-1])
            rest = rest[len(parts[-1]) :]
            if len(owners) == size:
                yield parts, owners
                parts, owners = [], []
    if parts:
        yield parts, owners


def score_adaptively(
    score_views: Callable[[Tensor], Tensor], pixels: Tensor, margin: float
) -> tuple[Tensor, int]:
    """Score the views of a video in batches until the most probable class leads by more than `margin`.

    The number of scored views doubles with each batch: 1, 2, 4, 8, V.

    Args:
        score_views: Returns the scores (views, K) of views.
        pixels: (V, ...), most informative views first.
        margin: Lead of the most probable class over the second in the mean scores.

    Returns:
        Sum of the scores (K,) of the scored views, and their number.
    """
    sums, num_scored = torch.zeros(()), 0
    while True:
        scores = score_views(pixels[num_scored : num_scored + max(num_scored, 1)])  # (batch, K)
        sums = sums.to(scores.device) + scores.sum(0)
        num_scored += len(scores)
        if num_scored == len(pixels) or lead(sums / num_scored) > margin:
            return sums, num_scored


def lead(scores: Tensor) -> float:
    """Return the largest minus the second largest score of (K,), or the only score if K is 1."""
    first, *others = scores.topk(min(2, len(scores))).values.tolist()
    return float(first - sum(others))


def _require_device_and_precision(backend: Backend, device: str, precision: Precision | None) -> None:
    """Raise InputError if a backend is on another device or has another precision than requested."""
    name, own_device = backend.metadata.name, str(backend.device)
    if device not in ("auto", own_device):
        raise InputError(f"device must be {own_device}, which {name} is on, got {device}")
    own_precision = backend.metadata.precision
    if precision not in (None, own_precision):
        raise InputError(
            f"precision must be {own_precision}, the precision of {name}, got {precision}; export the model "
            "again for another precision"
        )


def require_finite_scores(probabilities: Tensor, model: str) -> Tensor:
    """Return the probabilities; raise NonFiniteScoresError, a ValueError, if one is NaN or infinite."""
    if not probabilities.isfinite().all():
        raise NonFiniteScoresError(f"scores of {model} must be finite, got NaN or infinity: damaged weights?")
    return probabilities
