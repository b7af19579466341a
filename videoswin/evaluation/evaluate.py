"""Evaluate a Predictor on all views of all labeled videos of a manifest.

Worker processes decode, batches share the views of several videos, and the ranks of a distributed run share
the videos.

Legend: V views, K classes.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from videoswin._distributed import (
    from_all_ranks,
    naming_killed_workers,
    rank_and_world_size,
    require_startable_workers,
    shared_memory_notice,
    start_data_worker,
)
from videoswin._errors import InputError, VideoError
from videoswin._progress import Progress
from videoswin._text import did_you_mean, first_few
from videoswin.data.lists.rows import folded_name
from videoswin.data.manifest import Manifest, Sample
from videoswin.evaluation.report import Report
from videoswin.inference.predictor import Predictor, require_finite_scores
from videoswin.video.limits import ReadLimits
from videoswin.video.spec import ClipSpec, ViewPlan
from videoswin.video.views import Views, load_views

Loaded = Views | VideoError


def evaluate(
    predictor: Predictor,
    manifest: Manifest,
    *,
    workers: int = 2,
    views_per_batch: int | None = None,
    progress: bool = False,
    title: str = "evaluate",
) -> Report:
    """Evaluate the predictor on all videos of the manifest; an unreadable video counts as wrong.

    In a distributed run, all ranks must call this with the same arguments, and get the same report.

    Args:
        predictor: Model with its clip and views.
        manifest: Labeled videos.
        workers: Number of decoding processes; 0 decodes in this process.
        views_per_batch: Batch size in views, of one video or several; default `predictor.views_per_batch`.
        progress: Show progress and remaining time on stderr.
        title: Title of the progress bar, such as `validate` during training.

    Raises:
        InputError: The manifest has no labeled videos, or has classes that the predictor does not have.
        NonFiniteScoresError: The scores have NaN or infinity.
    """
    if not any(sample.labels for sample in manifest.samples):
        raise InputError(f"{manifest.source} must have labeled videos, got none")
    if views_per_batch is not None and views_per_batch < 1:
        raise InputError(f"views_per_batch must be >= 1, got {views_per_batch}")
    require_startable_workers(workers, name="workers")
    targets = _targets(manifest, predictor.labels)
    rank, world_size = rank_and_world_size()
    share = _Share(range(rank, len(manifest.samples), world_size))
    samples = [manifest.samples[index] for index in share.indices]
    videos = _Videos(samples, predictor.clip, predictor.views, predictor.limits)
    # A separate generator, because iterating must not advance torch's, on which a training run may depend.
    loader = DataLoader(
        videos,
        batch_size=None,
        num_workers=workers,
        generator=torch.Generator(),
        worker_init_fn=start_data_worker,
    )
    started = time.monotonic()
    loaded = iter(loader)  # starts the processes before the progress bar starts a thread
    shown = progress and rank == 0
    with Progress(title, len(share.indices), "videos", shown=shown) as bar:
        if notice := shared_memory_notice(_bytes_per_video(predictor.clip, predictor.views), workers):
            bar.print_line(notice)
        pixels = _pixels(loaded, share, bar.advance)
        with naming_killed_workers():
            share.scores, _ = predictor.score_videos(
                pixels, len(share.indices), views_per_batch=views_per_batch
            )
    share.seconds = time.monotonic() - started
    return _report(predictor, manifest, targets, from_all_ranks(share))


def match_classes(classes: Sequence[str], labels: Sequence[str]) -> list[int]:
    """Return the index in `labels` of each class.

    Names are compared regardless of case, of `_` for a space, and of the Unicode form.

    Args:
        classes: Class names of the data, or the numbers 0 to n - 1, which are indices of `labels`.
        labels: Class names of the model.

    Raises:
        InputError: Some classes are not in `labels`; the message suggests similar labels.
    """
    index_of = {folded_name(label): index for index, label in enumerate(labels)}
    index_of |= {label: index for index, label in enumerate(labels)}
    found = [index_of.get(name, index_of.get(folded_name(name))) for name in classes]
    numbers = {str(number) for number in range(len(classes))}
    if None in found and set(classes) == numbers and len(classes) <= len(labels):
        return [int(name) for name in classes]
    unknown = [name for name, index in zip(classes, found, strict=True) if index is None]
    if unknown:
        named = first_few([_with_suggestion(name, labels) for name in unknown], 5)
        raise InputError(
            f"the {len(classes)} classes of the data must be among the {len(labels)} of the model, got "
            f"{len(unknown)} others: {named}; rename them to the model's labels"
        )
    return [index for index in found if index is not None]


@dataclass
class _Share:
    """The videos that one rank reads, and its results."""

    indices: range
    """Indices of the samples of this rank."""
    unreadable: dict[int, str] = field(default_factory=dict)
    """Errors of unreadable videos, by the index of the sample."""
    damage: dict[int, str] = field(default_factory=dict)
    """Damage of readable videos, by the index of the sample."""
    scores: Tensor = field(default_factory=lambda: torch.empty(0))
    """(len(indices), K) mean probabilities; zeros for unreadable videos."""
    seconds: float = 0.0


class _Videos(Dataset[Loaded]):
    """The views of videos. It has no model, so that it can be sent to other processes."""

    def __init__(self, samples: Sequence[Sample], clip: ClipSpec, plan: ViewPlan, limits: ReadLimits) -> None:
        self.samples, self.clip, self.plan, self.limits = samples, clip, plan, limits

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> Loaded:
        sample = self.samples[index]
        try:
            return load_views(
                sample.path,
                self.clip,
                self.plan,
                start_seconds=sample.start_seconds,
                end_seconds=sample.end_seconds,
                limits=self.limits,
            )
        except VideoError as error:
            return error


def _pixels(loaded: Iterable[Loaded], share: _Share, advance: Callable[[], None]) -> Iterator[Tensor | None]:
    """Yield the pixels of each video, None if it is unreadable; record errors and damage in the share."""
    for index, views in zip(share.indices, loaded, strict=True):
        if isinstance(views, VideoError):
            share.unreadable[index] = views.reason
            yield None
        else:
            if views.damage is not None:
                share.damage[index] = views.damage
            yield views.pixels
        advance()


def _report(predictor: Predictor, manifest: Manifest, targets: Tensor, shares: list[_Share]) -> Report:
    unreadable = {index: reason for share in shares for index, reason in share.unreadable.items()}
    damage = {index: reason for share in shares for index, reason in share.damage.items()}
    scores = torch.empty(targets.shape)
    for share in shares:
        scores[list(share.indices)] = share.scores
    require_finite_scores(scores, predictor.name)
    scores[list(unreadable)] = torch.nan
    return Report(
        model=predictor.name,
        protocol=predictor.protocol,
        source=manifest.source,
        digest=manifest.digest,
        labels=predictor.labels,
        multi_label=manifest.multi_label,
        samples=manifest.samples,
        targets=targets,
        scores=scores,
        unreadable=dict(sorted(unreadable.items())),
        damage=dict(sorted(damage.items())),
        seconds=max(share.seconds for share in shares),
        clip=predictor.clip,
    )


def _targets(manifest: Manifest, labels: tuple[str, ...]) -> Tensor:
    """Return (number of videos, K) bool: which of the predictor's classes each video shows."""
    index_of = match_classes(manifest.classes, labels)
    targets = torch.zeros(len(manifest.samples), len(labels), dtype=torch.bool)
    for sample, row in zip(manifest.samples, targets, strict=True):
        row[[index_of[label] for label in sample.labels]] = True
    return targets


def _bytes_per_video(clip: ClipSpec, plan: ViewPlan) -> int:
    """Estimate the size of all views of a video; whole frames are assumed to be 16:9."""
    pixels = clip.short_side**2 * 16 // 9 if plan.crops == "full" else clip.size**2
    return plan.num_views * 3 * clip.frames * pixels


def _with_suggestion(name: str, labels: Sequence[str]) -> str:
    suggestion = did_you_mean(folded_name(name), labels)
    return f"{name!r} ({suggestion})" if suggestion else repr(name)
