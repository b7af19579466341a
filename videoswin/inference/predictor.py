"""From a video file to class probabilities: Predictor and Prediction.

Legend: V views of a video (clips x crops), T frames, S pixels, K classes.
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
from videoswin.acceleration.cuda import use_fastest_blocks, warn_if_emulated
from videoswin.inference.adaptive import score_adaptively
from videoswin.inference.backends.exported import ExportedModel, is_exported
from videoswin.inference.backends.metadata import ExportMetadata
from videoswin.inference.pixels import PixelModel
from videoswin.inference.prefetch import batches, copy_to_device, decoding_threads, load_ahead, wait_for_copy
from videoswin.model.swin import VideoSwin
from videoswin.video.frames import excerpt
from videoswin.video.limits import ReadLimits
from videoswin.video.reader import VideoError, open_video
from videoswin.video.spec import PROTOCOLS, ClipSpec, ViewPlan, apply_protocol
from videoswin.video.transforms import normalize
from videoswin.video.views import read_views, seconds_seen
from videoswin.weights.checkpoint import Checkpoint

Precision = Literal["fp32", "bf16", "fp16"]
PRECISIONS: Final = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}

VIEWS_PER_BATCH: Final = {"cpu": 4, "cuda": 12}
"""Views that go through the model together, by type of device; each more costs memory. Few fill a CPU; 12 are
a video in the published protocol."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Prediction:
    """What one model says about one video."""

    path: str
    model: str
    """Name or file of the checkpoint."""
    protocol: str
    """Which views were averaged, e.g. `official-4x3`."""
    labels: tuple[str, ...]
    probabilities: Tensor
    """(K,) float32 on the CPU, summing to 1 unless the model is multi-label."""
    duration_seconds: float
    damage: str | None = None
    """What of the file could not be read, if the answer rests on the rest of it."""
    views_used: int | None = None
    """How many views were looked at, if the protocol leaves that open."""
    multi_label: bool = False
    """Whether each class is scored by itself."""
    seconds_seen: float | None = None
    """How much of the video the clips cover, from the first to the last frame of each."""
    notes: tuple[str, ...] = ()
    """What is no damage but may make the answer worse, such as HDR."""

    @property
    def score_type(self) -> str:
        """What the probabilities are, in words."""
        if self.multi_label:
            return "sigmoid of each class by itself; not calibrated"
        return (
            f"softmax over the {len(self.labels)} classes of the model, mean over views: sums to 1 even if "
            "the video shows none of them; not calibrated"
        )

    def top(self, k: int = 5) -> list[tuple[str, float]]:
        """The min(k, K) likeliest labels and their probabilities, likeliest first; ValueError if k < 1."""
        if k < 1:
            raise ValueError(f"top needs k >= 1, got {k}")
        values, indices = self.probabilities.topk(min(k, len(self.labels)))
        return [(self.labels[i], value) for i, value in zip(indices.tolist(), values.tolist(), strict=True)]

    def to_json(self, k: int = 5) -> str:
        """One line of JSON: path, model, protocol, top, score_type, duration_seconds.

        Where they are known also seconds_seen, damage, and views_used of an adaptive protocol.
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
        sometimes = {"seconds_seen": seen, "damage": damage, "views_used": used}
        fields |= {name: value for name, value in sometimes.items() if value is not None}
        return dump_json(fields)


@dataclass(frozen=True)
class LoadedVideo:
    """A video as the model wants it, and what is worth knowing about the file."""

    views: Tensor
    """(V, 3, T, S, S) uint8, or of whole frames (V, 3, T, H, W)."""
    duration_seconds: float
    damage: str | None
    seconds_seen: float
    """How much of it the clips cover."""
    notes: tuple[str, ...] = ()


def load_video(
    path: str | Path,
    clip: ClipSpec,
    views: ViewPlan,
    *,
    start_seconds: float | None = None,
    end_seconds: float | None = None,
    limits: ReadLimits | None = None,
) -> LoadedVideo:
    """The CPU half: the views of one video, or of the part of it between two times; VideoError if unreadable.

    Needs no model; safe in a thread or process.
    """
    # One decoding thread always: with several, FFmpeg patches a damaged picture differently.
    with open_video(path, threads=1, limits=limits) as video:
        part = excerpt(video, start_seconds, end_seconds)
        return LoadedVideo(
            views=read_views(part, clip, views),
            duration_seconds=part.duration_seconds,
            damage=part.damage,
            seconds_seen=seconds_seen(part.num_readable, part.fps, clip, views, part.times),
            notes=part.notes,
        )


class Predictor:
    """A model together with everything needed to put a video through it.

    Attributes: model (VideoSwin in eval mode, or ExportedModel), clip (ClipSpec), views (ViewPlan), labels,
    multi_label, device, name, protocol, views_per_batch (how many go through the model together), limits
    (ReadLimits).
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
        """device: `auto` (a GPU if there is one), `cpu`, `cuda`, `cuda:1`, `mps`.

        protocol: one of videoswin.video.spec.PROTOCOLS; None is the checkpoint's own clip and views.
        precision: of weights and activations, float32 unless told; an exported model has its own. Scores
            are always float32.
        limits: the most that reading one video may cost; None is ReadLimits().
        """
        if isinstance(checkpoint, ExportedModel):
            self.device = checkpoint.device
            if device not in ("auto", str(self.device)):
                raise InputError(f"{checkpoint.path} was loaded for {self.device}, not for {device}")
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
                f"{self.name} gives a video several labels, and none of them leads; {self.protocol} is for "
                "one, use a protocol such as official-4x3"
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
        """The predictor of a catalog name, a bundled name or a file in any layout; see Checkpoint.load.

        Also of a file that `videoswin export` wrote: .onnx, .xml (OpenVINO), .pt2 (torch.export).

        Args:
            name_or_path: Catalog name, bundled name or file.
            device: As for the constructor.
            protocol: As for the constructor.
            precision: As for the constructor.
            license: License of restricted weights that you accept.
            trust: Load also a .pt2 file that can run code on this machine: one compiled by AOTInductor, or
                one that is refused otherwise.
        """
        source: Checkpoint | ExportedModel
        if is_exported(name_or_path):
            # Most are for processors; a GPU must be asked for.
            target = resolve_device("cpu" if device == "auto" else device)
            source = ExportedModel(name_or_path, device=target, trust=trust)
        else:
            source = Checkpoint.load(name_or_path, license=license)
        return cls(source, device=device, protocol=protocol, precision=precision, limits=limits)

    def __call__(self, path: str | Path) -> Prediction:
        """Name what happens in the video at `path`; VideoError if it cannot be read."""
        (prediction,) = self._predictions([(path, self.load(path))])
        assert isinstance(prediction, Prediction)
        return prediction

    def predict_all(
        self, paths: Iterable[str | Path], *, threads: int | None = None
    ) -> Iterator[Prediction | VideoError]:
        """One Prediction or VideoError per path, in order; the next ones are decoded while one is scored.

        threads: how many are decoded at a time; by default as many as leave the model its cores.
        """
        # A CPU gains too little from a batch of several videos to let their last digits depend on it.
        together = 1 if self.device.type == "cpu" else max(1, self.views_per_batch // self.views.num_views)
        threads = decoding_threads(self.device) if threads is None else threads
        for loaded in load_ahead(self._load_and_send, paths, threads=threads, together=together):
            yield from self._predictions(loaded)

    def load(
        self, path: str | Path, *, start_seconds: float | None = None, end_seconds: float | None = None
    ) -> LoadedVideo:
        """The CPU half, load_video, for what this model wants to see."""
        return load_video(
            path,
            self.clip,
            self.views,
            start_seconds=start_seconds,
            end_seconds=end_seconds,
            limits=self.limits,
        )

    def score(self, views: Tensor) -> Tensor:
        """(V, 3, T, S, S) uint8 -> (K,) probabilities on the CPU: the mean over the views.

        Of the probabilities of `score_each`, or, as `views.average` says, of the logits before them.
        With an adaptive plan the mean over the first of them, which tell most in what `load` gives.
        ValueError if the model gives no numbers, as one with broken weights does.
        """
        means, _ = self.score_videos([(0, views)], 1)
        return require_finite_scores(means[0], self.name)

    def score_videos(
        self, videos: Iterable[tuple[int, Tensor]], count: int, *, views_per_batch: int | None = None
    ) -> tuple[Tensor, list[int]]:
        """(number below `count`, views) of videos -> (count, K) as `score` on the CPU, and views looked at.

        Views share batches across videos; those of a video that does not come up are 0, and its scores.
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
        """(V, 3, T, S, S) uint8 -> (V, K) probabilities of each view, in one batch, on the model's device.

        By softmax; of a multi-label model by sigmoid, each class for itself. ValueError for other tensors.
        """
        return self._probabilities(self.logits_each(views))

    @torch.inference_mode()
    def logits_each(self, views: Tensor) -> Tensor:
        """(V, 3, T, S, S) uint8 -> (V, K) float32 logits of each view, as `score_each`."""
        if views.dtype != torch.uint8 or views.ndim != 5 or views.shape[1] != 3:
            got = f"{views.dtype} {tuple(views.shape)}"
            raise ValueError(f"views are {got}, wanted torch.uint8 (V, 3, T, H, W), as Predictor.load gives")
        return self._logits(views.to(self.device)).float()

    def _probabilities(self, logits: Tensor) -> Tensor:
        return logits.sigmoid() if self.multi_label else logits.softmax(-1)

    def _logits(self, pixels: Tensor) -> Tensor:
        if isinstance(self.model, VideoSwin):
            logits: Tensor = PixelModel(self.model, self.clip.normalization)(pixels)
            return logits
        if isinstance(self.model, ExportedModel):
            return self.model(pixels)
        # Somebody has put another in its place, such as torch.compile's: it takes what a VideoSwin takes.
        clips = normalize(pixels, self.clip.normalization)
        return self.model(clips.to(next(self.model.parameters()).dtype))

    def _load_and_send(self, path: str | Path) -> LoadedVideo:
        video = self.load(path)
        return replace(video, views=copy_to_device(video.views, self.device))

    def _predictions(
        self, loaded: Sequence[tuple[str | Path, LoadedVideo | VideoError]]
    ) -> Iterator[Prediction | VideoError]:
        """The answers for a few videos that are scored together, or why there is none."""
        readable = [
            (place, wait_for_copy(video.views))
            for place, (_, video) in enumerate(loaded)
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
                # The first views of an adaptive protocol are one of each clip.
                seconds_seen=video.seconds_seen * min(1.0, views / self.views.clips),
                notes=video.notes,
            )


def _model_of(
    source: Checkpoint | ExportedModel, device: torch.device, precision: Precision | None
) -> VideoSwin | ExportedModel:
    if isinstance(source, ExportedModel):
        if precision not in (None, source.metadata.precision):
            raise InputError(
                f"precision must be {source.metadata.precision}, which {source.path} was exported in, got "
                f"{precision}; export the model again for another precision"
            )
        return source
    if source.config.in_channels != 3:
        raise InputError(f"{source.name} takes {source.config.in_channels} channels; videos are read as RGB")
    dtype = PRECISIONS[precision or "fp32"]
    model = source.model().to(device, dtype)
    if dtype != torch.float32:
        warn_if_emulated(device, dtype)
        use_fastest_blocks(model, device, dtype)
    return model


class NonFiniteScoresError(VideoSwinError, ValueError):
    """A model gives scores that are not numbers."""


def require_finite_scores(probabilities: Tensor, model: str) -> Tensor:
    """The probabilities; NonFiniteScoresError, a ValueError, naming the model if one is not a number."""
    if not probabilities.isfinite().all():
        raise NonFiniteScoresError(f"{model} gives scores that are not numbers: are its weights damaged?")
    return probabilities


def _protocol_name(clip: ClipSpec, views: ViewPlan) -> str:
    """The named protocol that looks at videos this way, or clips x crops."""
    named = (name for name, apply in PROTOCOLS.items() if apply(clip) == (clip, views))
    return next(named, views.name)


def resolve_device(device: str) -> torch.device:
    """The torch device that `device` names; ValueError if this machine or this torch has none such."""
    if device == "auto":
        return torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")
    try:
        resolved = torch.device(device)
        torch.empty(0, device=resolved)
    # What torch raises for an unknown name or number, without CUDA compiled in, and for an absent backend.
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"device {device!r} cannot be used here ({reason}); try 'auto' or 'cpu'") from error
    return resolved
