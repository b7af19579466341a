"""What a person sees on the terminal, and what a program reads there."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from videoswin._text import dump_json, plural, printable
from videoswin.video.spec import describe_protocol

if TYPE_CHECKING:
    from rich.console import Console

    from videoswin.data.check.findings import Finding, Group
    from videoswin.data.check.report import DataReport
    from videoswin.evaluation.report import Report
    from videoswin.inference.export import Comparison
    from videoswin.inference.predictor import Prediction

BAR_WIDTH = 24

LINES_PER_LIST = 5
"""A person is shown the beginning of a longer list; the JSON has all of it."""

CLASSES_SHOWN = 12

LARGE_IMBALANCE = 3.0
"""Samples of the largest class per sample of the smallest from which on a person is told."""


def print_prediction(prediction: Prediction, top: int, *, as_json: bool = False) -> None:
    """The `top` likeliest labels of one video, with bars or as JSON; notes about the file go to stderr."""
    if as_json:
        print(prediction.to_json(top), flush=True)
    else:
        _print_ranking(prediction, top)
    for note in prediction.notes:
        print_to_stderr(f"{prediction.path}: {note}")


def _print_ranking(prediction: Prediction, top: int) -> None:
    """The labels with bars; damage of the file goes to stderr."""
    from rich.console import Console
    from rich.text import Text

    console = Console(soft_wrap=True, highlight=False)
    views = f", {prediction.views_used} used" if prediction.views_used else ""
    length = f"{prediction.duration_seconds:.1f} s"
    if prediction.seconds_seen is not None and prediction.seconds_seen < 0.9 * prediction.duration_seconds:
        length = f"{length}, of which the model saw {prediction.seconds_seen:.1f} s"
    protocol = describe_protocol(prediction.protocol)
    facts = f"{length}, {prediction.model}, {protocol}{views}"
    console.print(Text.assemble((printable(prediction.path), "bold"), f"  {printable(facts)}"))
    ranking = [(printable(label), probability) for label, probability in prediction.top(top)]
    width = max(len(label) for label, _ in ranking)
    for label, probability in ranking:
        bar = _bar(console, probability)
        console.print(Text(f"  {label:{width}}  {bar:{BAR_WIDTH}} {100 * probability:5.1f} %"))
    if prediction.damage:
        print_to_stderr(f"{prediction.path}: {prediction.damage}")


def print_failure(path: str, reason: str, *, as_json: bool) -> None:
    """A video without an answer, and why."""
    if as_json:
        print_json({"path": path, "error": reason})
    else:
        print_to_stderr(f"{path}: {reason}")


def print_comparison(found: Comparison) -> None:
    """What an exported file gives beside PyTorch."""
    speed = found.seconds_per_clip_pytorch / found.seconds_per_clip
    print(f"{printable(found.path)}  {found.format}, {found.precision}")
    clips = f"{plural(found.clips, 'clip')}, {printable(found.source_of_clips)}"
    print(f"  compared with PyTorch in float32 on {clips}")
    print(f"  largest difference of logits  {found.largest_difference:.1e} of the largest logit")
    print(f"  same top-1 class              {found.top1_agreement:.1%} of the clips")
    print(
        f"  size                          {found.megabytes:.1f} MB, weights {found.megabytes_pytorch:.1f} MB"
    )
    print(
        f"  {'a clip on ' + plural(found.threads, 'thread'):28}  "
        f"{1e3 * found.seconds_per_clip:.1f} ms, PyTorch {1e3 * found.seconds_per_clip_pytorch:.1f} ms "
        f"({speed:.2f} times as fast)"
    )


def print_models(rows: list[dict[str, Any]], folder: str) -> None:
    """The table of weights; rows as `videoswin models --json` prints them."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False)
    for column in ("name", "classes", "top-1", "protocol", "license", "MB", "here"):
        table.add_column(column, no_wrap=True)
    for row in rows:
        score = next(iter(row["scores"]), {"top1": "", "protocol": ""})
        here = "yes" if row["file"] else ""
        cells = (score["top1"], score["protocol"], row["license"], row["size_mb"] or "", here)
        table.add_row(printable(row["name"]), row["labels"] or "", *map(str, cells))
    # A file or a pipe has no width to keep to.
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 120)
    console.print(table)
    console.print("Scores are those published, not measured by us; without one it is a start for training.")
    console.print(Text(f"Downloads go to {printable(folder)}."), soft_wrap=True)


def print_report(report: Report) -> None:
    """How well a model does on labeled videos."""
    from rich.console import Console
    from rich.text import Text

    console = Console(soft_wrap=True, highlight=False)
    speed = f"{report.seconds:.1f} s, {report.videos_per_second:.1f} videos/s"
    views = describe_protocol(report.protocol)
    facts = f"{views}, {plural(report.num_videos, 'video')} of {report.source}, {speed}"
    console.print(Text.assemble((printable(report.model), "bold"), f"  {printable(facts)}"))
    _print_scores(console, report)
    _print_weakest_classes(console, report)
    for title, videos in (
        ("cannot be read, and count as wrong", report.failures),
        ("damaged", report.damaged),
    ):
        if videos:
            console.print(Text(f"\n{title}: {len(videos)}", "red" if videos is report.failures else "yellow"))
        for line in _capped([f"{video.path}: {video.reason}" for video in videos]):
            console.print(Text(f"  {printable(line)}"))


def _print_scores(console: Console, report: Report) -> None:
    """The numbers for the whole list, with their intervals."""
    from rich.table import Table

    names = {"top1": "top-1", "top5": "top-5", "mean_class": "mAP" if report.multi_label else "mean class"}
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for column in ("", "%", "95 % interval"):
        table.add_column(column, justify="right" if column == "%" else "left", no_wrap=True)
    for name, (low, high) in report.intervals.items():
        score = f"{100 * getattr(report, name):.1f}"
        table.add_row(f"  {names[name]}", score, f"{100 * low:.1f} to {100 * high:.1f}")
    console.print(table)
    console.print(f"  without looking at the videos: {report.baselines}")
    if report.chance_warning:
        console.print(f"  warning: {report.chance_warning}", style="yellow")


def _print_weakest_classes(console: Console, report: Report) -> None:
    """The classes with the lowest scores, and what is taken for what."""
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
            Text(f"  {printable(entry.label)}"), str(entry.videos), f"{100 * score:.1f}", _bar(console, score)
        )
    console.print(table)
    if report.confusion is not None and (pairs := confused_pairs(report.confusion)):
        console.print(Text("\n  most often confused"))
        for true, predicted, videos in pairs[:LINES_PER_LIST]:
            line = f"{report.labels[true]} is taken for {report.labels[predicted]}: {videos}"
            console.print(Text(f"  {printable(line)}"))


def print_data_report(
    report: DataReport, *, written: str | None = None, start: str | None = None, root: str | None = None
) -> None:
    """What is wrong with labeled videos, and what to do next.

    written: The clean list, if it exists. start: The model to train from. root: Where the list's paths start.
    """
    from rich.console import Console
    from rich.text import Text

    console = Console(soft_wrap=True, highlight=False)
    _print_data_facts(console, report)
    _print_class_counts(console, report)
    for section in _sections(report):
        console.print(Text(f"\n{section.title}", "red" if section.is_problem else "yellow"))
        for line in _capped(section.lines):
            console.print(Text(f"  {printable(line)}"))
    console.print()
    for line in _next_steps(report, written, start or "tiny-k400", root):
        console.print(Text(printable(line)))


def _print_data_facts(console: Console, report: DataReport) -> None:
    """How much there is, and of what kind."""
    from rich.text import Text

    from videoswin.data.check.advice import describe_image_folders

    manifest = report.manifest
    counts = ((manifest.samples, "sample"), (manifest.classes, "class"), (report.videos, "video"))
    amount = ", ".join(plural(len(counted), noun) for counted, noun in counts)
    minutes = f"{report.total_seconds / 60:.1f} minutes"
    console.print(
        Text.assemble((printable(manifest.source), "bold"), f"  {amount} that can be read, {minutes}")
    )
    if report.durations:
        shortest, median, longest = report.durations
        console.print(f"  seconds   {shortest:.1f} to {longest:.1f}, median {median:.1f}")
    for title, frequencies in (
        ("sizes", report.sizes),
        ("frames/s", report.rates),
        ("codecs", report.codecs),
    ):
        if kinds := [f"{kind} ({count})" for kind, count in frequencies.items()]:
            console.print(Text(f"  {title:8}  {printable(', '.join(_capped(kinds)))}"))
    if assumed := describe_image_folders(report.image_folders, len(report.videos)):
        console.print(Text(f"  {assumed}"))


def _print_class_counts(console: Console, report: DataReport) -> None:
    """How many samples of each class can be read; of many classes the largest and the smallest."""
    from rich.table import Table
    from rich.text import Text

    by_split = report.class_counts
    rows = [
        (name, counts, sum(counts))
        for name, *counts in zip(report.manifest.classes, *by_split.values(), strict=True)
    ]
    rows.sort(key=lambda row: -row[2])
    largest = max((total for _, _, total in rows), default=0) or 1
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column("\n  class", no_wrap=True)
    for split in by_split:
        table.add_column("samples" if len(by_split) == 1 else split, justify="right", vertical="bottom")
    table.add_column("")
    for place, (name, counts, total) in enumerate(rows):
        if CLASSES_SHOWN // 2 <= place < len(rows) - CLASSES_SHOWN // 2:
            if place == CLASSES_SHOWN // 2:
                table.add_row(f"  ({len(rows) - CLASSES_SHOWN} in between)")
            continue
        table.add_row(Text(f"  {printable(name)}"), *map(str, counts), _bar(console, total / largest))
    console.print(table)


class _Section(NamedTuple):
    title: str
    is_problem: bool
    lines: Sequence[str]


def _sections(report: DataReport) -> list[_Section]:
    """Everything found, what is worst first."""
    told = {group.rows for group in (*report.contradictions, *report.leaks)}
    repeats = [group for group in report.repeats if group.rows not in told]
    sections = [
        _Section(
            "Cannot be read", True, [f"{_short(report, f.path)}: {f.reason}" for f in report.unreadable]
        ),
        _Section("Labeled part outside of its video", True, _about_files(report, report.outside)),
        _Section("Contradicting labels", True, _about_groups(report, report.contradictions)),
        _Section("Shared between splits", True, _about_groups(report, report.leaks)),
        _Section("More than once", False, _about_groups(report, repeats)),
        _Section("Alike: copies, or one scene twice?", False, _about_groups(report, report.possible_copies)),
        _Section("Damaged, used as far as they go", False, _about_files(report, report.damaged)),
        _Section(
            "Shorter than a clip: fine-tuning shortens clips to fit most, the others are looped",
            False,
            _about_files(report, report.too_short),
        ),
        _Section("Unlike most", False, _about_files(report, report.odd)),
        *_note_sections(report),
        _Section("Properties that give the class away", False, report.telltale),
    ]
    return [
        section._replace(title=f"{section.title} ({len(section.lines)})")
        for section in sections
        if section.lines
    ] + _class_warnings(report)


def _note_sections(report: DataReport) -> list[_Section]:
    """A section for each note, with the videos that have it."""
    paths: dict[str, list[str]] = {}
    for finding in report.notes:
        paths.setdefault(finding.what, []).append(_short(report, finding.path))
    return [_Section(f"{note[0].upper()}{note[1:]}", False, of_note) for note, of_note in paths.items()]


def _class_warnings(report: DataReport) -> list[_Section]:
    missing = [f"{split}: {', '.join(_capped(names))}" for split, names in report.missing_classes.items()]
    sections = [_Section("Classes without a sample", False, missing)] if missing else []
    if (report.imbalance or 1) > LARGE_IMBALANCE:
        cure = "consider training with --set data.class_balanced=true"
        line = f"the largest class has {report.imbalance:.0f} times the samples of the smallest: {cure}"
        sections.append(_Section("Unequal classes", False, [line]))
    if report.hardly_validated:
        names = ", ".join(_capped(report.hardly_validated))
        line = f"fewer than 3 videos to validate on: {names}: too few to measure an accuracy"
        sections.append(_Section("Small classes", False, [line]))
    return sections


def _about_files(report: DataReport, findings: Iterable[Finding]) -> list[str]:
    return [f"{_short(report, finding.path)}: {finding.what}" for finding in findings]


def _about_groups(report: DataReport, groups: Iterable[Group]) -> list[str]:
    lines = []
    for group in groups:
        shown: dict[str, str] = {}
        for row in group.rows:
            name = _short(report, report.manifest.samples[row].path)
            first = next(iter(shown), name)
            shown[name] = f"{name} (a mirror image of {first})" if row in group.mirrored_rows else name
        lines.append(f"{group.what}: {', '.join(_capped(list(shown.values())))}")
    return lines


def _short(report: DataReport, path: str) -> str:
    """The path, without the folder that was checked or that holds the list."""
    source = report.manifest.source
    folder = os.path.normpath(source if os.path.isdir(source) else os.path.dirname(source))
    return os.path.normpath(path).removeprefix(os.path.join(folder, ""))


def _next_steps(report: DataReport, written: str | None, start: str, root: str | None) -> list[str]:
    """What to do now, in a few sentences with the commands to type."""
    from videoswin.data.check.advice import describe_missing_groups
    from videoswin.data.check.report import HELD_OUT

    num_samples, num_clean = len(report.manifest.samples), len(report.clean().samples)
    if num_clean == 0:
        return ["There is nothing to learn from: no sample can be used."]
    steps = []
    data = report.manifest.source
    if num_clean < num_samples:
        data, root = written or "clean.csv", None  # its paths start from its own folder
        share = f"{num_clean} of {plural(num_samples, 'sample')}"
        steps.append(
            f"{written} lists the {share} that can be used."
            if written
            else f"Add --write {data} to the command for a list of the {share} that can be used."
        )
    if report.lasting_leaks:
        steps.append(
            "It still has parts of one video, or videos of one group, in several splits: split again, whole "
            "videos and groups at a time."
        )
        return steps
    if reason := report.single_class:
        return [*steps, f"Training would refuse these videos: {reason}."]
    command = f"videoswin train finetune --data {shlex.quote(data)} --from {shlex.quote(start)} --out run/"
    command += f" --set {shlex.quote(f'data.root={root}')}" if root is not None else ""
    groups = [] if report.has_groups else describe_missing_groups(report.clean(), command, fraction=HELD_OUT)
    return [*steps, *groups, f"To train: {command}"]


def _capped(lines: Sequence[str]) -> list[str]:
    """The first LINES_PER_LIST, and how many more there are."""
    more = len(lines) - LINES_PER_LIST
    return [*lines[:LINES_PER_LIST], *([f"and {more} more"] if more > 0 else [])]


def _bar(console: Console, part: float) -> str:
    """A bar of up to BAR_WIDTH characters, for 0..1."""
    block = "█" if "█".encode(console.encoding, "ignore") else "#"
    return block * round(BAR_WIDTH * part)


def print_json(fields: dict[str, Any]) -> None:
    """Print one object on one line."""
    print(dump_json(fields), flush=True)


def print_to_stderr(line: str) -> None:
    """Print one line for people, out of the way of the output; controls in it are escaped."""
    print(printable(line), file=sys.stderr, flush=True)
