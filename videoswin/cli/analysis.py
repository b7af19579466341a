"""Commands for long videos."""

from pathlib import Path
from typing import Annotated, Literal

from videoswin._files import require_writable_file, require_writable_folder
from videoswin._text import printable
from videoswin.cli.arguments import Choices
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


def extract(
    videos: list[str],
    *,
    model: str = "tiny-k400",
    out: str = "features",
    format: Annotated[str, Choices(("npz", "npy", "safetensors"))] = "npz",
    stride: int = 16,
    fps: float = 30.0,
    protocol: str = "fast-1x1",
    device: str = "auto",
    precision: Literal["fp32", "bf16", "fp16"] | None = None,
    license: str | None = None,
    json: bool = False,
) -> int:
    """Write the features of videos, for temporal localization and for `videoswin search`.

    Example: videoswin extract recordings/ --model tiny-k400 --stride 4
    Videos whose features are in the folder are skipped, unless a setting or the file changed.

    Args:
        videos: Files, folders, glob patterns, or - to read a list from standard input.
        model: Name (see `videoswin models`) or checkpoint.
        out: Folder of the results.
        format: Format of the files.
        stride: Frames between the starts of two windows.
        fps: Frame rate to which videos are resampled.
        protocol: Views of a window (see `videoswin protocols`).
        precision: bf16 is faster on GPUs and on CPUs with bf16 instructions; fp32 by default.
        json: Print one JSON object per line.
    """
    from videoswin.analysis.features import SavedFeatures, save_all_features
    from videoswin.inference.predictor import Predictor
    from videoswin.video.listing import find_videos

    require_writable_folder(out, name="--out")
    predictor = Predictor.from_pretrained(
        model, device=device, protocol=protocol, precision=precision, license=license
    )
    paths = find_videos(with_standard_input(videos), print_to_stderr)
    failures = 0
    for result in save_all_features(paths, predictor, Path(out), format=format, stride=stride, fps=fps):
        if isinstance(result, SavedFeatures):
            if json:
                print_json(result.to_dict())
            else:
                print_text(result.to_text(), printable(result.path))
        else:
            failures += 1
            print_failure(result.path, result.reason, as_json=json)
    return 1 if failures else 0


def search(
    index: str,
    clip: str,
    *,
    model: str | None = None,
    top: int = 5,
    out: str | None = None,
    device: str = "auto",
    license: str | None = None,
    json: bool = False,
) -> int:
    """Find the moments that are most like a clip.

    Example: videoswin search features/ clip.mp4 --out matches.png

    Args:
        index: Folder of `videoswin extract`.
        clip: Video of what to find, from a second to some seconds long.
        model: Name or checkpoint that the features were extracted with; by default the name in the index.
        top: Number of moments.
        out: PNG file with frames of the clip and of the moments.
        json: Print one JSON object per line.
    """
    from videoswin.analysis.features import extract
    from videoswin.analysis.page import format_seconds
    from videoswin.analysis.search import FeatureIndex, draw_matches
    from videoswin.inference.predictor import Predictor

    if out is not None:
        require_writable_file(out, name="--out")
    features = FeatureIndex(index)
    predictor = Predictor.from_pretrained(
        model or features.model, device=device, protocol="fast-1x1", license=license
    )
    query = extract(clip, predictor, stride=features.stride_frames, fps=features.fps)
    matches = features.search(query, top=top)
    for match in matches:
        times = f"{format_seconds(match.start_seconds)} to {format_seconds(match.end_seconds)}"
        if json:
            print_json(vars(match))
        else:
            print(f"{match.similarity:6.3f}  {times:>20}  {printable(match.path)}")
    if out is not None:
        draw_matches(Path(out), clip, matches)
    return 0
