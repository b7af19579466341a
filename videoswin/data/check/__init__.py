"""Check labeled videos: decode all files in parallel and report problems: check_videos."""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import closing
from functools import partial
from typing import Final

from videoswin._errors import InputError, VideoError
from videoswin._progress import Progress
from videoswin.data.check.findings import (
    Finding,
    find_contradictions,
    find_duplicates,
    find_leaks,
    find_near_duplicates,
    find_outliers,
    find_parts_outside,
    find_predictive_properties,
    find_too_short,
)
from videoswin.data.check.processes import map_in_processes
from videoswin.data.check.report import DataReport
from videoswin.data.dataset import Failure
from videoswin.data.fingerprint import VideoFacts, examine_video
from videoswin.data.manifest import Manifest
from videoswin.video.spec import ClipSpec

MIN_FRAMES: Final = 64
"""Span of a clip of most published models: 32 frames, stride 2. A shorter video is looped."""


def check_videos(
    manifest: Manifest,
    *,
    workers: int = 0,
    min_frames: int = MIN_FRAMES,
    clip: ClipSpec | None = None,
    sampled: bool = False,
    progress: bool = False,
) -> DataReport:
    """Check the files of a manifest and their labels, and report all problems.

    A file that crashes or hangs its process is reported as unreadable.

    Args:
        manifest: Labeled videos; each file is examined once.
        workers: Number of decoding processes, >= 0; 0 means one per core.
        min_frames: Samples with fewer frames are reported as too short, >= 0.
        clip: Clip of the model; samples shorter than one clip are reported as too short. Replaces
            `min_frames`.
        sampled: Decode 8 frames of each video instead of all: faster, but damage between them is not found,
            and copies are videos with 8 identical frames.
        progress: Show a progress line with the remaining time on stderr.

    Returns:
        The report on all files and samples.

    Raises:
        InputError: `workers` or `min_frames` is negative.
        ChildProcessError: No process can be started.
    """
    for name, value in (("workers", workers), ("min_frames", min_frames)):
        if value < 0:
            raise InputError(f"{name} must be >= 0, got {value}")
    paths = list(dict.fromkeys(sample.path for sample in manifest.samples))
    examined: dict[str, VideoFacts | VideoError] = {}
    num_damaged = 0
    examine = partial(examine_video, sampled=sampled)
    results = map_in_processes(examine, paths, workers=workers or os.cpu_count() or 1)
    with Progress("check", len(paths), "files", shown=progress) as bar, closing(results):
        for path, result in results:
            examined[path] = result
            num_damaged += isinstance(result, VideoError) or result.damage is not None
            bar.advance(f"{num_damaged} damaged or unreadable")
    return make_report(manifest, examined, min_frames=min_frames, clip=clip)


def make_report(
    manifest: Manifest,
    examined: Mapping[str, VideoFacts | VideoError],
    *,
    min_frames: int,
    clip: ClipSpec | None = None,
) -> DataReport:
    """Make the report of a manifest from the results of examining its files.

    Args:
        manifest: The checked manifest.
        examined: Path -> facts or error, for every file of the manifest.
        min_frames: Samples with fewer frames are too short.
        clip: Clip of the model; samples shorter than one clip are too short. Replaces `min_frames`.
    """
    facts: dict[str, VideoFacts] = {}
    unreadable = []
    for path in dict.fromkeys(sample.path for sample in manifest.samples):
        result = examined[path]
        if isinstance(result, VideoError):
            unreadable.append(Failure(path, result.reason))
        else:
            facts[path] = result
    videos = tuple(facts.values())
    duplicates = find_duplicates(manifest, facts)
    return DataReport(
        manifest=manifest,
        videos=videos,
        unreadable=tuple(unreadable),
        outside_video=tuple(find_parts_outside(manifest, facts)),
        contradictions=tuple(find_contradictions(manifest, duplicates)),
        leaks=tuple(find_leaks(manifest, facts)),
        duplicates=tuple(duplicates),
        near_duplicates=tuple(find_near_duplicates(manifest, facts)),
        damaged=tuple(Finding(path=video.path, description=video.damage) for video in videos if video.damage),
        too_short=tuple(find_too_short(manifest, facts, min_frames, clip)),
        outliers=tuple(find_outliers(videos)),
        notes=tuple(Finding(path=video.path, description=note) for video in videos for note in video.notes),
        predictive_properties=tuple(find_predictive_properties(manifest, facts)),
    )
