"""Decode all labeled videos in parallel and report problems: check_videos."""

from __future__ import annotations

import os
from contextlib import closing
from functools import partial
from typing import Final

from videoswin._errors import InputError, VideoError
from videoswin._progress import Progress
from videoswin.data.check.fingerprint import VideoFacts, examine_video
from videoswin.data.check.processes import map_in_processes
from videoswin.data.check.report import DataReport, make_report
from videoswin.data.manifest import Manifest
from videoswin.video.spec import ClipSpec

SHORTEST_FRAMES: Final = 64
"""Span of a clip of most published models: 32 frames, stride 2. A shorter video is looped."""


def check_videos(
    manifest: Manifest,
    *,
    workers: int = 0,
    shortest_frames: int = SHORTEST_FRAMES,
    clip: ClipSpec | None = None,
    sampled: bool = False,
    progress: bool = False,
) -> DataReport:
    """Check the files of a manifest and their labels, and report all problems.

    A file that crashes or hangs its process is reported as unreadable.

    Args:
        manifest: Labeled videos; each file is examined once.
        workers: Number of decoding processes, >= 0; 0 means one per core.
        shortest_frames: Samples with fewer frames are reported as too short, >= 0.
        clip: Clip of the model; samples shorter than one clip are reported as too short. Replaces
            `shortest_frames`.
        sampled: Decode 8 frames of each video instead of all: faster, but damage between them is not found,
            and copies are videos with 8 identical frames.
        progress: Show a progress line with the remaining time on stderr.

    Returns:
        The report on all files and samples.

    Raises:
        InputError: `workers` or `shortest_frames` is negative.
        ChildProcessError: No process can be started.
    """
    for name, value in (("workers", workers), ("shortest_frames", shortest_frames)):
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
    return make_report(manifest, examined, shortest_frames=shortest_frames, clip=clip)
