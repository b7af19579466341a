"""Decode every labelled video, in parallel, and report what is wrong: check_videos."""

from __future__ import annotations

import os
from contextlib import closing
from typing import Final

from videoswin._errors import InputError
from videoswin._progress import Progress
from videoswin.data.checks.fingerprint import VideoFacts, examine_video
from videoswin.data.checks.processes import work_in_processes
from videoswin.data.checks.report import DataReport, make_report
from videoswin.data.manifest import Manifest
from videoswin.video.reader import VideoError

SHORTEST_FRAMES: Final = 64
"""What a clip of most published models reaches over: 32 frames, stride 2. A shorter video is looped."""


def check_videos(
    manifest: Manifest, *, workers: int = 0, shortest_frames: int = SHORTEST_FRAMES, progress: bool = False
) -> DataReport:
    """What is wrong with the files of a manifest and their labels. Each file is decoded once, completely.

    `workers` processes decode (0: one for each core); a file that crashes one, or never comes back, is
    reported like others that cannot be read. `shortest_frames` is what a sample needs so as not to be called
    too short. `progress` shows on stderr how far it is and how long it will take. ValueError for negative
    numbers, ChildProcessError if no process can be started.
    """
    for name, value in (("workers", workers), ("shortest_frames", shortest_frames)):
        if value < 0:
            raise InputError(f"{name} must be >= 0, got {value}")
    paths = list(dict.fromkeys(sample.path for sample in manifest.samples))
    examined: dict[str, VideoFacts | VideoError] = {}
    troubled = 0
    results = work_in_processes(examine_video, paths, workers=workers or os.cpu_count() or 1)
    with Progress("check", len(paths), "files", shown=progress) as bar, closing(results):
        for path, result in results:
            examined[path] = result
            troubled += isinstance(result, VideoError) or result.damage is not None
            bar.advance(f"{troubled} damaged or unreadable")
    return make_report(manifest, examined, shortest_frames=shortest_frames)
