"""Print predictions, reports and tables as text for people or as JSON for programs."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from videoswin._text import dump_json, plural, printable
from videoswin.video.spec import describe_protocol

if TYPE_CHECKING:
    from rich.console import Console

    from videoswin.evaluation.report import Report
    from videoswin.inference.export import Comparison
    from videoswin.inference.predictor import Prediction

BAR_WIDTH = 24
"""Characters of the bar of a probability of 1."""
LINES_PER_LIST = 5
"""Lines of a list that are printed; the JSON has all of them."""


def print_prediction(prediction: Prediction, top: int, *, as_json: bool = False) -> None:
    """Print the `top` most probable classes of a video, with bars or as JSON.

    Notes about the file go to stderr.
    """
    if as_json:
        print(prediction.to_json(top), flush=True)
    else:
        _print_ranking(prediction, top)
    for note in prediction.notes:
        print_to_stderr(f"{prediction.path}: {note}")


def _print_ranking(prediction: Prediction, top: int) -> None:
    """Print the most probable classes with bars; damage of the file goes to stderr."""
    from rich.console import Console
    from rich.text import Text

    console = Console(soft_wrap=True, highlight=False)
    views = f", {prediction.views_used} used" if prediction.views_used else ""
    duration = f"{prediction.duration_seconds:.1f} s"
    if prediction.seconds_seen is not None and prediction.seconds_seen < 0.9 * prediction.duration_seconds:
        duration += f", of which the model saw {prediction.seconds_seen:.1f} s"
    protocol = describe_protocol(prediction.protocol)
    summary = f"{duration}, {prediction.model}, {protocol}{views}"
    console.print(Text.assemble((printable(prediction.path), "bold"), f"  {printable(summary)}"))
    ranking = [(printable(label), probability) for label, probability in prediction.top(top)]
    width = max(len(label) for label, _ in ranking)
    for label, probability in ranking:
        bar = draw_bar(console, probability)
        console.print(Text(f"  {label:{width}}  {bar:{BAR_WIDTH}} {100 * probability:5.1f} %"))
    if prediction.damage:
        print_to_stderr(f"{prediction.path}: {prediction.damage}")


def print_failure(path: str, reason: str, *, as_json: bool) -> None:
    """Print why a video has no prediction: as JSON to stdout, or as one line to stderr."""
    if as_json:
        print_json({"path": path, "error": reason})
    else:
        print_to_stderr(f"{path}: {reason}")


def print_comparison(comparison: Comparison) -> None:
    """Print the accuracy, size and speed of an exported file next to those of PyTorch."""
    speed = comparison.seconds_per_clip_pytorch / comparison.seconds_per_clip
    print(f"{printable(comparison.path)}  {comparison.format}, {comparison.precision}")
    clips = f"{plural(comparison.clips, 'clip')}, {printable(comparison.source_of_clips)}"
    print(f"  compared with PyTorch in float32 on {clips}")
    print(f"  largest difference of logits  {comparison.largest_difference:.1e} of the largest logit")
    print(f"  same top-1 class              {comparison.top1_agreement:.1%} of the clips")
    size, size_pytorch = comparison.megabytes, comparison.megabytes_pytorch
    print(f"  size                          {size:.1f} MB, weights {size_pytorch:.1f} MB")
    milliseconds = 1e3 * comparison.seconds_per_clip
    milliseconds_pytorch = 1e3 * comparison.seconds_per_clip_pytorch
    print(
        f"  {'a clip on ' + plural(comparison.threads, 'thread'):28}  {milliseconds:.1f} ms, PyTorch "
        f"{milliseconds_pytorch:.1f} ms ({speed:.2f} times as fast)"
    )


def print_models(rows: list[dict[str, Any]], folder: str) -> None:
    """Print the table of models.

    Args:
        rows: The rows of `list_models`, as `videoswin models --json` prints them.
        folder: Folder of the downloads.
    """
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False)
    for column in ("name", "classes", "top-1", "protocol", "license", "MB", "downloaded"):
        table.add_column(column, no_wrap=True)
    for row in rows:
        score = next(iter(row["scores"]), {"top1": "", "protocol": ""})
        here = "yes" if row["file"] else ""
        cells = (score["top1"], score["protocol"], row["license"], row["size_mb"] or "", here)
        table.add_row(printable(row["name"]), row["labels"] or "", *map(str, cells))
    # A file or a pipe has no width.
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 120)
    console.print(table)
    console.print(
        "Scores are quoted from the publishers; none was measured here. "
        "Models without a score are for initialization."
    )
    console.print(Text(f"Downloads go to {printable(folder)}."), soft_wrap=True)


def print_table(rows: Sequence[Mapping[str, Any]]) -> None:
    """Print rows with the same keys as columns; the last column is wrapped to the width of the terminal."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False)
    *names, last = rows[0]
    for name in names:
        table.add_column(name, no_wrap=True)
    table.add_column(last)
    for row in rows:
        *cells, description = (printable(str(value)) for value in row.values())
        table.add_row(*(Text(_shorten(cell)) for cell in cells), Text(description))
    # A file or a pipe has no width.
    Console(highlight=False, width=None if sys.stdout.isatty() else 160).print(table)


def _shorten(text: str, width: int = 44) -> str:
    return text if len(text) <= width else f"{text[: width - 3]}..."


def print_report(report: Report) -> None:
    """Print the scores, the weakest classes and the unreadable videos of an evaluation."""
    from rich.console import Console
    from rich.text import Text

    console = Console(soft_wrap=True, highlight=False)
    speed = f"{report.seconds:.1f} s, {report.videos_per_second:.1f} videos/s"
    views = describe_protocol(report.protocol)
    summary = f"{views}, {plural(report.num_videos, 'video')} of {report.source}, {speed}"
    console.print(Text.assemble((printable(report.model), "bold"), f"  {printable(summary)}"))
    _print_scores(console, report)
    _print_weakest_classes(console, report)
    for title, videos in (
        ("cannot be read, and count as wrong", report.failures),
        ("damaged", report.damaged),
    ):
        if videos:
            console.print(Text(f"\n{title}: {len(videos)}", "red" if videos is report.failures else "yellow"))
        for line in truncate([f"{video.path}: {video.reason}" for video in videos]):
            console.print(Text(f"  {printable(line)}"))


def _print_scores(console: Console, report: Report) -> None:
    """Print the scores of all videos, with their 95 % intervals and baselines."""
    from rich.table import Table

    names = {
        "top1": "top-1",
        "top5": "top-5",
        "mean_class_accuracy": "mAP" if report.multi_label else "mean class",
    }
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for column in ("", "%", "95 % interval"):
        table.add_column(column, justify="right" if column == "%" else "left", no_wrap=True)
    for name, (low, high) in report.intervals.items():
        score = f"{100 * getattr(report, name):.1f}"
        table.add_row(f"  {names[name]}", score, f"{100 * low:.1f} to {100 * high:.1f}")
    console.print(table)
    console.print(f"  baselines: {report.baselines}")
    if report.chance_warning:
        console.print(f"  warning: {report.chance_warning}", style="yellow")


def _print_weakest_classes(console: Console, report: Report) -> None:
    """Print the classes with the lowest scores, and the most frequently confused pairs."""
    from rich.table import Table
    from rich.text import Text

    from videoswin.evaluation.plots import confused_pairs

    scored = [(entry.score, entry) for entry in report.per_class if entry.score is not None]
    weakest = sorted(scored, key=lambda pair: pair[0])[:LINES_PER_LIST]
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column("\n  weakest classes")
    for column in ("videos", "%"):
        table.add_column(column, justify="right", vertical="bottom", no_wrap=True)
    table.add_column("")
    for score, entry in weakest:
        table.add_row(
            Text(f"  {printable(entry.label)}"),
            str(entry.videos),
            f"{100 * score:.1f}",
            draw_bar(console, score),
        )
    console.print(table)
    if report.confusion is not None and (pairs := confused_pairs(report.confusion)):
        console.print(Text("\n  most often confused"))
        for true, predicted, videos in pairs[:LINES_PER_LIST]:
            line = f"{report.labels[true]} predicted as {report.labels[predicted]}: {videos}"
            console.print(Text(f"  {printable(line)}"))


def truncate(lines: Sequence[str]) -> list[str]:
    """Return the first LINES_PER_LIST lines, and a line with the number of the others."""
    more = len(lines) - LINES_PER_LIST
    return [*lines[:LINES_PER_LIST], *([f"and {more} more"] if more > 0 else [])]


def draw_bar(console: Console, fraction: float) -> str:
    """Return a bar of 0 to BAR_WIDTH characters for a fraction from 0 to 1."""
    block = "█" if "█".encode(console.encoding, "ignore") else "#"
    return block * round(BAR_WIDTH * fraction)


def print_json(fields: dict[str, Any]) -> None:
    """Print a JSON object on one line."""
    print(dump_json(fields), flush=True)


def print_to_stderr(line: str) -> None:
    """Print one line to stderr, with control characters escaped."""
    print(printable(line), file=sys.stderr, flush=True)
