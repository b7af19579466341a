"""Decode every labeled video, in parallel, and report what is wrong: check_videos."""

from __future__ import annotations

import os
from contextlib import closing
from functools import partial
from typing import Final

from videoswin._errors import InputError
from videoswin._progress import Progress
from videoswin.data.check.fingerprint import VideoFacts, examine_video
from videoswin.data.check.processes import work_in_processes
from videoswin.data.check.report import DataReport, make_report
from videoswin.data.manifest import Manifest
from videoswin.video.reader import VideoError
from videoswin.video.spec import ClipSpec

SHORTEST_FRAMES: Final = 64
"""What a clip of most published models covers: 32 frames, stride 2. A shorter video is looped."""


def check_videos(
    manifest: Manifest,
    *,
    workers: int = 0,
    shortest_frames: int = SHORTEST_FRAMES,
    clip: ClipSpec | None = None,
    sampled: bool = False,
    progress: bool = False,
) -> DataReport:
    """Report what is wrong with the files of a manifest and their labels.

    A file that crashes its process, or never comes back, is reported like others that cannot be read.

    Args:
        manifest: Labeled videos; each file is examined once.
        workers: Processes that decode; 0 is one for each core.
        shortest_frames: Frames below which a sample is called short.
        clip: What the model sees of a video: a sample is short if a clip of it covers more. Takes the place
            of `shortest_frames`.
        sampled: Decode 8 frames of each video instead of all: faster, but damage between them is not found,
            and copies are those with 8 equal frames.
        progress: Show on stderr how far it is and how long it will take.

    Raises:
        InputError: A number is negative.
        ChildProcessError: No process can be started.
    """
    for name, value in (("workers", workers), ("shortest_frames", shortest_frames)):
        if value < 0:
            raise InputError(f"{name} must be >= 0, got {value}")
    paths = list(dict.fromkeys(sample.path for sample in manifest.samples))
    examined: dict[str, VideoFacts | VideoError] = {}
    troubled = 0
    examine = partial(examine_video, sampled=sampled)
    results = work_in_processes(examine, paths, workers=workers or os.cpu_count() or 1)
    with Progress("check", len(paths), "files", shown=progress) as bar, closing(results):
        for path, result in results:
            examined[path] = result
            troubled += isinstance(result, VideoError) or result.damage is not None
            bar.advance(f"{troubled} damaged or unreadable")
    return make_report(manifest, examined, shortest_frames=shortest_frames, clip=clip)
