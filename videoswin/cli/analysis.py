"""Commands for long videos."""

from pathlib import Path
from typing import Literal

from videoswin._files import require_writable_folder
from videoswin._text import printable
from videoswin.cli.terminal import (
    print_failure,
    print_json,
    print_text,
    print_to_stderr,
    with_standard_input,
)


def timeline(
    videos: list[str],
    *,
    model: str = "tiny-k400",
    out: str = "timelines",
    format: str = "csv,html",
    window: float | None = None,
    hop: float | None = None,
    threshold: float = 0.3,
    protocol: str = "fast-1x1",
    device: str = "auto",
    precision: Literal["fp32", "bf16", "fp16"] | None = None,
    license: str | None = None,
    json: bool = False,
) -> int:
    """Find what happens when in videos of any length.

    Example: videoswin timeline recording.mp4 --model camera-motion
    Each video is read once. After an interruption, the same command continues.

    Args:
        videos: Files, folders, glob patterns, or - to read a list from standard input.
        model: Name (see `videoswin models`) or checkpoint.
        out: Folder of the results.
        format: Comma-separated formats, or all: json, csv, srt, vtt, tsv, html, edl, activitynet,
            labelstudio, fiftyone, boris.
        window: Seconds of a window; by default those of a clip.
        hop: Seconds between windows; by default half a window.
        threshold: Probability that starts a segment.
        protocol: Views of a window (see `videoswin protocols`).
        precision: bf16 is faster on GPUs and on CPUs with bf16 instructions; fp32 by default.
        json: Print one JSON object per line.
    """
    from videoswin.analysis.files import COMBINED_CSV, SavedTimeline, save_timelines
    from videoswin.analysis.writers import parse_formats
    from videoswin.inference.predictor import Predictor
    from videoswin.video.listing import find_videos

    formats = parse_formats(format)
    require_writable_folder(out, name="--out")
    predictor = Predictor.from_pretrained(
        model, device=device, protocol=protocol, precision=precision, license=license
    )
    results = save_timelines(
        find_videos(with_standard_input(videos), print_to_stderr),
        predictor,
        Path(out),
        formats=formats,
        on_event=print_json if json else None,
        window_seconds=window,
        hop_seconds=hop,
        threshold=threshold,
    )
    failures = 0
    for result in results:
        if not isinstance(result, SavedTimeline):
            failures += 1
            if not json:
                print_failure(result.path, result.reason, as_json=False)
        elif not json:
            print_text(result.to_text(), printable(result.path))
    if not json:
        print(f"{printable(str(Path(out) / COMBINED_CSV))} has the segments of all videos.")
    return 1 if failures else 0
