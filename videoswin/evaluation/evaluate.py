"""Every view of every labeled video, scored: evaluate() gives a Report.

Decoding is spread over processes, views are batched across videos, and videos over the ranks of a distributed
run. N videos, V views, K classes, T frames, S side of a frame.
"""

from __future__ import annotations

import difflib
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from videoswin._distributed import from_all_ranks, rank_and_world_size
from videoswin._errors import InputError
from videoswin._progress import Progress
from videoswin._workers import (
    naming_killed_workers,
    require_startable_workers,
    shared_memory_notice,
    start_data_worker,
)
from videoswin.data.lists.rows import folded_name
from videoswin.data.manifest import Manifest, Sample
from videoswin.evaluation.report import Report
from videoswin.inference.predictor import LoadedVideo, Predictor, load_video, require_finite_scores
from videoswin.video.limits import ReadLimits
from videoswin.video.reader import VideoError
from videoswin.video.spec import ClipSpec, ViewPlan

__all__ = ["Report", "evaluate", "match_classes"]

Loaded = LoadedVideo | VideoError


def evaluate(
    predictor: Predictor,
    manifest: Manifest,
    *,
    workers: int = 2,
    views_per_batch: int | None = None,
    progress: bool = False,
    title: str = "evaluate",
) -> Report:
    """How the predictor does on every video of the manifest; a video that cannot be read counts as wrong.

    workers: processes that decode; 0 decodes in this one.
    views_per_batch: views that go through the model together, of one video or of several; by default the
        predictor's.
    progress: show how far it is on stderr, and how long it will take.
    title: what the progress calls it, such as `validate` during training.
    In a distributed run every rank must call this with the same arguments, and gets the same report.
    ValueError for an empty manifest, or classes that the predictor does not know.
    """
    if not any(sample.labels for sample in manifest.samples):
        raise InputError(f"{manifest.source} lists no labeled videos")
    if views_per_batch is not None and views_per_batch < 1:
        raise InputError(f"views_per_batch must be >= 1, got {views_per_batch}")
    require_startable_workers(workers, name="workers")
    targets = _targets(manifest, predictor.labels)
    rank, world_size = rank_and_world_size()
    share = _Share(range(rank, len(manifest.samples), world_size))
    samples = [manifest.samples[index] for index in share.indices]
    videos = _Videos(samples, predictor.clip, predictor.views, predictor.limits)
    # A generator of its own: iterating must not move torch's, on which a training run may depend.
    loader = DataLoader(
        videos,
        batch_size=None,
        num_workers=workers,
        generator=torch.Generator(),
        worker_init_fn=start_data_worker,
    )
    since = time.monotonic()
    loaded = iter(loader)  # starts the processes, before the progress bar starts a thread
    shown = progress and rank == 0
    with Progress(title, len(share.indices), "videos", shown=shown) as bar:
        if notice := shared_memory_notice(_bytes_per_video(predictor.clip, predictor.views), workers):
            bar.say(notice)
        readable = _readable(loaded, share, bar.advance)
        with naming_killed_workers():
            share.scores, _ = predictor.score_videos(
                readable, len(share.indices), views_per_batch=views_per_batch
            )
    share.seconds = time.monotonic() - since
    return _report(predictor, manifest, targets, from_all_ranks(share))


def match_classes(classes: Sequence[str], labels: Sequence[str]) -> list[int]:
    """Which of `labels` each class is: by name, or by number if classes are 0 to n - 1.

    Upper case, `_` for a space, and another Unicode form of the same letters make no difference.

    ValueError naming the classes that are none of them, and what may have been meant.
    """
    index_of = {folded_name(label): index for index, label in enumerate(labels)}
    index_of |= {label: index for index, label in enumerate(labels)}
    found = [index_of.get(name, index_of.get(folded_name(name))) for name in classes]
    numbers = {str(number) for number in range(len(classes))}
    if None in found and set(classes) == numbers and len(classes) <= len(labels):
        return [int(name) for name in classes]
    unknown = [name for name, index in zip(classes, found, strict=True) if index is None]
    if unknown:
        named = ", ".join(_with_suggestion(name, labels) for name in unknown[:5])
        more = ", ..." if len(unknown) > 5 else ""
        raise InputError(
            f"{len(unknown)} of the data's {len(classes)} classes are none of the model's {len(labels)}: "
            f"{named}{more}; rename them as the model does"
        )
    return [index for index in found if index is not None]


@dataclass
class _Share:
    """What one rank reads, and finds."""

    indices: range
    """Its samples."""
    unreadable: dict[int, str] = field(default_factory=dict)
    """Why, by the sample's index."""
    damage: dict[int, str] = field(default_factory=dict)
    """What was wrong with videos that could be read, by the sample's index."""
    scores: Tensor = field(default_factory=lambda: torch.empty(0))
    """(len(indices), K) mean probabilities; zeros for unreadable videos."""
    seconds: float = 0.0


class _Videos(Dataset[Loaded]):
    """The views of videos. Holds no model, so that it can be sent to other processes."""

    def __init__(
        self, samples: Sequence[Sample], clip: ClipSpec, views: ViewPlan, limits: ReadLimits
    ) -> None:
        self.samples, self.clip, self.views, self.limits = samples, clip, views, limits

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> Loaded:
        sample = self.samples[index]
        try:
            return load_video(
                sample.path,
                self.clip,
                self.views,
                start_seconds=sample.start_seconds,
                end_seconds=sample.end_seconds,
                limits=self.limits,
            )
        except VideoError as error:
            return error


def _readable(
    loaded: Iterable[Loaded], share: _Share, advance: Callable[[], None]
) -> Iterator[tuple[int, Tensor]]:
    """(position in the share, views) of every video that can be read; what is wrong with others is noted."""
    for position, (index, video) in enumerate(zip(share.indices, loaded, strict=True)):
        if isinstance(video, VideoError):
            share.unreadable[index] = video.reason
        else:
            if video.damage is not None:
                share.damage[index] = video.damage
            yield position, video.views
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
    """(N, K) bool: which of the predictor's classes each video shows."""
    index_of = match_classes(manifest.classes, labels)
    targets = torch.zeros(len(manifest.samples), len(labels), dtype=torch.bool)
    for sample, row in zip(manifest.samples, targets, strict=True):
        row[[index_of[label] for label in sample.labels]] = True
    return targets


def _bytes_per_video(clip: ClipSpec, views: ViewPlan) -> int:
    """Size of all views of a video; whole frames are taken to be 16:9."""
    pixels = clip.short_side**2 * 16 // 9 if views.crops == "full" else clip.size**2
    return views.num_views * 3 * clip.frames * pixels


def _with_suggestion(name: str, labels: Sequence[str]) -> str:
    close = difflib.get_close_matches(folded_name(name), labels, n=1)
    return f"{name!r} (did you mean {close[0]!r}?)" if close else repr(name)
