"""Commands for long videos."""

from __future__ import annotations

from typing import Literal

from videoswin._errors import InputError
from videoswin._files import require_writable_folder
from videoswin.cli.terminal import print_json, print_to_stderr


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
    The model slides over the video, which is read once. Call it again to continue after an interruption, or to
    add videos. If a video cannot be read, the others are still processed and the exit code is 1.

    Args:
        videos: Files, folders, glob patterns, or - to read a list from standard input.
        model: Name (see `videoswin models`) or checkpoint file.
        out: Folder of the results.
        format: Formats of the results, separated by commas, or all: json, csv, srt, vtt, tsv, html, edl,
            activitynet, labelstudio, fiftyone, boris. JSON is always written.
        window: Seconds of a window; by default the length of a clip of the model.
        hop: Seconds between windows; by default half a window. Smaller is slower and has more exact edges.
        threshold: Probability that starts a segment, > 0 and <= 1; it lasts while the probability is at least
            0.6 of it.
        protocol: Views of a window (see `videoswin protocols`).
        json: Print one JSON object per line: start, window, segment, end or error.
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
