"""Decode every labelled video, in parallel, and report what is wrong: check_videos."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from typing import Final

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from videoswin._errors import InputError
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
    too short. `progress` shows a bar on stderr if that is a terminal. ValueError for negative numbers,
    ChildProcessError if no process can be started.
    """
    if workers < 0 or shortest_frames < 0:
        raise InputError(f"workers is {workers} and shortest_frames {shortest_frames}, wanted 0 or more")
    paths = list(dict.fromkeys(sample.path for sample in manifest.samples))
    examined: dict[str, VideoFacts | VideoError] = {}
    troubled = 0
    results = work_in_processes(examine_video, paths, workers=workers or os.cpu_count() or 1)
    with _progress_bar(len(paths), shown=progress) as show, closing(results):
        for path, result in results:
            examined[path] = result
            troubled += isinstance(result, VideoError) or result.damage is not None
            show(len(examined), troubled)
    return make_report(manifest, examined, shortest_frames=shortest_frames)


@contextmanager
def _progress_bar(num_files: int, *, shown: bool) -> Iterator[Callable[[int, int], None]]:
    """A function to call with the number of files done and of those with problems."""
    console = Console(stderr=True)
    began = time.monotonic()
    with Progress(
        TextColumn("decoding"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[facts]}"),
        TimeRemainingColumn(),
        console=console,
        disable=not (shown and console.is_terminal),
    ) as bar:
        task = bar.add_task("", total=num_files, facts="")

        def show(done: int, troubled: int) -> None:
            speed = done / max(time.monotonic() - began, 1e-9)
            bar.update(task, completed=done, facts=f"{speed:.1f} files/s, {troubled} damaged or unreadable")

        yield show
