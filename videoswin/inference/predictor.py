"""Classify the action in a video file: Predictor and Prediction.

Legend: V views of a video (clips x crops), T frames, H W height and width of a view, K classes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, Literal

import torch
from torch import Tensor

from videoswin._errors import InputError, VideoSwinError
from videoswin._text import dump_json
from videoswin.acceleration import optimize_for_inference
from videoswin.inference.adaptive import score_adaptively
from videoswin.inference.backends.exported import ExportedModel, is_exported
from videoswin.inference.backends.metadata import ExportMetadata
from videoswin.inference.pixels import PixelModel
from videoswin.inference.prefetch import batches, copy_to_device, decoding_threads, load_ahead, wait_for_copy
from videoswin.model.swin import VideoSwin
from videoswin.video.limits import ReadLimits
from videoswin.video.reader import VideoError
from videoswin.video.spec import PROTOCOLS, ClipSpec, ViewPlan, apply_protocol
from videoswin.video.transforms import normalize
from videoswin.video.views import Views, load_views
from videoswin.weights.checkpoint import Checkpoint

Precision = Literal["fp32", "bf16", "fp16"]
PRECISIONS: Final = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}

VIEWS_PER_BATCH: Final = {"cpu": 4, "cuda": 12}
"""Batch size in views, by device type; memory grows with it. A few views fill a CPU; 12 are one video in the
published protocol."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Prediction:
    """The class probabilities of one video."""

    path: str
    model: str
    """Name or file of the checkpoint."""
    protocol: str
    """Name of the protocol whose views were averaged, e.g. `official-4x3`."""
    labels: tuple[str, ...]
    """Class names in the order of the probabilities."""
    probabilities: Tensor
    """(K,) float32 on the CPU, summing to 1 unless the model is multi-label."""
    duration_seconds: float
    damage: str | None = None
    """Description of the unreadable parts of the file, if the prediction is based on the other parts."""
    views_used: int | None = None
    """Number of views that were scored, if the protocol is adaptive."""
    multi_label: bool = False
    """Whether each class is scored independently of the others."""
    seconds_seen: float | None = None
    """Seconds of the video covered by the clips, from the first to the last frame of each."""
    notes: tuple[str, ...] = ()
    """Properties of the file that are no damage but may reduce accuracy, such as HDR."""

    @property
    def score_type(self) -> str:
        """How the probabilities were computed, in words."""
        if self.multi_label:
            return "sigmoid of each class by itself; not calibrated"
        return (
            f"softmax over the {len(self.labels)} classes of the model, mean over views: sums to 1 even if "
            "the video shows none of them; not calibrated"
        )

    def top(self, k: int = 5) -> list[tuple[str, float]]:
        """Return the min(k, K) most probable labels with their probabilities; raise ValueError if k < 1."""
        if k < 1:
            raise ValueError(f"k must be >= 1, got {k}")
        values, indices = self.probabilities.topk(min(k, len(self.labels)))
        return [(self.labels[i], value) for i, value in zip(indices.tolist(), values.tolist(), strict=True)]

    def to_json(self, k: int = 5) -> str:
        """Return one line of JSON: path, model, protocol, top, score_type, duration_seconds.

        It also has seconds_seen, damage, and views_used of an adaptive protocol, where they are known.
        """
        fields = {
            "path": self.path,
            "model": self.model,
            "protocol": self.protocol,
            "top": [{"label": label, "probability": probability} for label, probability in self.top(k)],
            "score_type": self.score_type,
            "duration_seconds": self.duration_seconds,
        }
        seen, damage, used = self.seconds_seen, self.damage or None, self.views_used
        optional = {"seconds_seen": seen, "damage": damage, "views_used": used}
        fields |= {name: value for name, value in optional.items() if value is not None}
        return dump_json(fields)


class Predictor:
    """A model together with everything needed to classify a video with it.

    Attributes: model (VideoSwin in eval mode, or ExportedModel), clip (ClipSpec), views (ViewPlan), labels,
    multi_label, device, name, protocol, views_per_batch (batch size in views), limits (ReadLimits).

    Example:
        Predictor.from_pretrained("camera-motion")("clip.mp4").top(5)
    """

    def __init__(
        self,
        checkpoint: Checkpoint | ExportedModel,
        *,
        device: str = "auto",
        protocol: str | None = None,
        precision: Precision | None = None,
        limits: ReadLimits | None = None,
    ) -> None:
        """Create a predictor.

        Args:
            checkpoint: Checkpoint, or the exported model to run.
            device: `auto` (a GPU if there is one), `cpu`, `cuda`, `cuda:1`, `mps`.
            protocol: One of videoswin.video.spec.PROTOCOLS; None is the checkpoint's own clip and views.
            precision: Precision of weights and activations, default `fp32`; an exported model has its own.
                Scores are always float32.
            limits: Upper bounds for reading one video; None is ReadLimits().
        """
        if isinstance(checkpoint, ExportedModel):
            self.device = checkpoint.device
            if device not in ("auto", str(self.device)):
                raise InputError(f"device must be {self.device}, which {checkpoint.path} is on, got {device}")
            metadata: ExportMetadata | Checkpoint = checkpoint.metadata
        else:
            self.device = resolve_device(device)
            metadata = checkpoint
        self.limits = limits or ReadLimits()
        self.views_per_batch = VIEWS_PER_BATCH.get(self.device.type, VIEWS_PER_BATCH["cpu"])
        self.name = metadata.name
        self.labels = metadata.labels
        self.multi_label = metadata.multi_label
        self.clip: ClipSpec = metadata.clip
        self.views: ViewPlan = metadata.views
        if protocol is not None:
            self.clip, self.views = apply_protocol(protocol, metadata.clip)
        self.protocol = protocol or _protocol_name(self.clip, self.views)
        if self.multi_label and self.views.is_adaptive:
            raise InputError(
                f"the adaptive protocol {self.protocol} needs a single-label model, but {self.name} is "
                "multi-label; use a protocol such as official-4x3"
            )
        self.model = _model_of(checkpoint, self.device, precision)

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
        source: Checkpoint | ExportedModel
        if is_exported(name_or_path):
            # Most exported files are for CPUs, so a GPU has to be requested.
            target = resolve_device("cpu" if device == "auto" else device)
            source = ExportedModel(name_or_path, device=target, trust=trust)
        else:
            source = Checkpoint.load(name_or_path, license=license)
        return cls(source, device=device, protocol=protocol, precision=precision, limits=limits)

    def __call__(self, path: str | Path) -> Prediction:
        """Classify the video at `path`; raise VideoError if it cannot be read."""
        (prediction,) = self._predictions([(path, self.load(path))])
        assert isinstance(prediction, Prediction)
        return prediction

    def predict_all(
        self, paths: Iterable[str | Path], *, threads: int | None = None
    ) -> Iterator[Prediction | VideoError]:
        """Yield a Prediction or VideoError per path, in order; the next videos are decoded during scoring.

        `threads` videos are decoded at a time; default: see decoding_threads.
        """
        # On a CPU, batches of several videos gain too little to let rounding depend on the batch.
        together = 1 if self.device.type == "cpu" else max(1, self.views_per_batch // self.views.num_views)
        threads = decoding_threads(self.device) if threads is None else threads
        for loaded in load_ahead(self._load_to_device, paths, threads=threads, together=together):
            yield from self._predictions(loaded)

    def load(
        self, path: str | Path, *, start_seconds: float | None = None, end_seconds: float | None = None
    ) -> Views:
        """Load the views of this model with `load_views`."""
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

        With `views.average` "logits", logits are averaged instead.

        Args:
            views: What `load` returns, or its pixels (V, 3, T, H, W) uint8. An adaptive plan may score only
                the first ones.

        Raises:
            NonFiniteScoresError: The scores have NaN or infinity, e.g. because weights are damaged.
        """
        pixels = views.pixels if isinstance(views, Views) else views
        means, _ = self.score_videos([(0, pixels)], 1)
        return require_finite_scores(means[0], self.name)

    def score_videos(
        self, videos: Iterable[tuple[int, Tensor]], count: int, *, views_per_batch: int | None = None
    ) -> tuple[Tensor, list[int]]:
        """Return the scores (count, K) of several videos as `score` does, and the views scored of each.

        Args:
            videos: Pairs of (index below `count`, views). An absent index has scores of 0 and 0 views.
            views_per_batch: Batch size in views, which videos share; default `self.views_per_batch`.
        """
        sums = torch.zeros(count, len(self.labels), device=self.device)
        looked = torch.zeros(count, dtype=torch.long)
        if self.views.is_adaptive:
            for video, views in videos:
                sums[video], looked[video] = score_adaptively(self.score_each, views, self.views.margin)
        else:
            each = self.logits_each if self.views.average == "logits" else self.score_each
            for pixels, owners in batches(videos, views_per_batch or self.views_per_batch):
                sums.index_add_(0, owners.to(self.device), each(pixels))
                looked += torch.bincount(owners, minlength=count)
        means = sums.cpu() / looked.clamp(min=1)[:, None]
        if self.views.average == "logits":
            means = self._probabilities(means) * looked.bool()[:, None]
        return means, looked.tolist()

    def score_each(self, views: Tensor) -> Tensor:
        """Return the probabilities (V, K), on the device, of views (V, 3, T, H, W) uint8, in one batch."""
        return self._probabilities(self.logits_each(views))

    @torch.inference_mode()
    def logits_each(self, views: Tensor) -> Tensor:
        """Return the float32 logits (V, K) of views (V, 3, T, H, W) uint8; raise ValueError for others."""
        if views.dtype != torch.uint8 or views.ndim != 5 or views.shape[1] != 3:
            got = f"{views.dtype} {tuple(views.shape)}"
            raise ValueError(f"views must be uint8 (V, 3, T, H, W), as Predictor.load gives, got {got}")
        return self._logits(views.to(self.device)).float()

    def _probabilities(self, logits: Tensor) -> Tensor:
        return logits.sigmoid() if self.multi_label else logits.softmax(-1)

    def _logits(self, pixels: Tensor) -> Tensor:
        if isinstance(self.model, VideoSwin):
            logits: Tensor = PixelModel(self.model, self.clip.normalization)(pixels)
            return logits
        if isinstance(self.model, ExportedModel):
            return self.model(pixels)
        # The user has replaced the model, e.g. by a compiled one: it takes normalized clips as a VideoSwin.
        clips = normalize(pixels, self.clip.normalization)
        return self.model(clips.to(next(self.model.parameters()).dtype))

    def _load_to_device(self, path: str | Path) -> Views:
        video = self.load(path)
        return replace(video, pixels=copy_to_device(video.pixels, self.device))

    def _predictions(
        self, loaded: Sequence[tuple[str | Path, Views | VideoError]]
    ) -> Iterator[Prediction | VideoError]:
        """Score several videos in shared batches; yield a Prediction or the VideoError of each."""
        readable = [
            (index, wait_for_copy(video.pixels))
            for index, (_, video) in enumerate(loaded)
            if not isinstance(video, VideoError)
        ]
        means, looked = self.score_videos(readable, len(loaded))
        require_finite_scores(means, self.name)
        for (path, video), probabilities, views in zip(loaded, means, looked, strict=True):
            if isinstance(video, VideoError):
                yield video
                continue
            yield Prediction(
                path=str(path),
                model=self.name,
                protocol=self.protocol,
                labels=self.labels,
                probabilities=probabilities,
                duration_seconds=video.duration_seconds,
                damage=video.damage,
                views_used=views if self.views.is_adaptive else None,
                multi_label=self.multi_label,
                # The first views of an adaptive protocol have one view of each clip.
                seconds_seen=video.seconds_seen * min(1.0, views / self.views.clips),
                notes=video.notes,
            )


def _model_of(
    source: Checkpoint | ExportedModel, device: torch.device, precision: Precision | None
) -> VideoSwin | ExportedModel:
    if isinstance(source, ExportedModel):
        if precision not in (None, source.metadata.precision):
            raise InputError(
                f"precision must be {source.metadata.precision}, the precision of {source.path}, got "
                f"{precision}; export the model again for another precision"
            )
        return source
    if source.config.in_channels != 3:
        raise InputError(f"{source.name} must take RGB videos, got {source.config.in_channels} channels")
    return optimize_for_inference(source.model(), device, PRECISIONS[precision or "fp32"])


class NonFiniteScoresError(VideoSwinError, ValueError):
    """A model returned scores with NaN or infinity."""


def require_finite_scores(probabilities: Tensor, model: str) -> Tensor:
    """Return the probabilities; raise NonFiniteScoresError, a ValueError, if one is NaN or infinite."""
    if not probabilities.isfinite().all():
        raise NonFiniteScoresError(f"scores of {model} must be finite, got NaN or infinity: damaged weights?")
    return probabilities


def _protocol_name(clip: ClipSpec, views: ViewPlan) -> str:
    """Return the name of the protocol with this clip and these views, or else clips x crops."""
    names = (name for name, apply in PROTOCOLS.items() if apply(clip) == (clip, views))
    return next(names, views.name)


def resolve_device(device: str) -> torch.device:
    """Return the torch device; raise InputError if this machine or this build of torch does not have it."""
    if device == "auto":
        return torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")
    try:
        resolved = torch.device(device)
        torch.empty(0, device=resolved)
    # torch raises these for an unknown name or index, a build without CUDA, and an absent backend.
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"device {device!r} cannot be used here ({reason}); try 'auto' or 'cpu'") from error
    return resolved
