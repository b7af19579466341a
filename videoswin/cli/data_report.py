"""Print the report of `videoswin check` as text."""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, NamedTuple

from videoswin._text import plural, printable, truncate
from videoswin.cli.terminal import draw_bar

if TYPE_CHECKING:
    from rich.console import Console

    from videoswin.data.check.findings import Finding, Group
    from videoswin.data.check.report import DataReport


MAX_CLASSES = 12
"""Number of classes up to which all are printed; of more, the largest and the smallest."""
LARGE_IMBALANCE = 3.0
"""Ratio of the largest to the smallest class above which a warning is printed."""


def print_data_report(
    report: DataReport, *, written: str | None = None, start: str | None = None, root: str | None = None
) -> None:
    """Print the problems of labeled videos, and the commands to run next.

    Args:
        report: The result of `check_videos`.
        written: Path of the clean list, if it was written.
        start: Catalog name, bundled name or file of the initial weights; None is tiny-k400.
        root: Folder that the paths of the list start from.
    """
    from rich.console import Console
    from rich.text import Text

    console = Console(soft_wrap=True, highlight=False)
    _print_summary(console, report)
    _print_class_counts(console, report)
    for section in _sections(report):
        console.print(Text(f"\n{section.title}", "red" if section.is_problem else "yellow"))
        for line in truncate(section.lines):
            console.print(Text(f"  {printable(line)}"))
    console.print()
    for line in _next_steps(report, written, start or "tiny-k400", root):
        console.print(Text(printable(line)))


def _print_summary(console: Console, report: DataReport) -> None:
    """Print the number of samples, their total duration, sizes, frame rates and codecs."""
    from rich.text import Text

    from videoswin.data.check.advice import describe_image_folders

    manifest = report.manifest
    counts = ((manifest.samples, "sample"), (manifest.classes, "class"), (report.videos, "video"))
    totals = ", ".join(plural(len(items), noun) for items, noun in counts)
    minutes = f"{report.total_seconds / 60:.1f} minutes"
    console.print(
        Text.assemble((printable(manifest.source), "bold"), f"  {totals} that can be read, {minutes}")
    )
    if report.durations:
        shortest, median, longest = report.durations
        console.print(f"  seconds   {shortest:.1f} to {longest:.1f}, median {median:.1f}")
    for title, frequencies in (
        ("sizes", report.sizes),
        ("frames/s", report.rates),
        ("codecs", report.codecs),
    ):
        if values := [f"{value} ({count})" for value, count in frequencies.items()]:
            console.print(Text(f"  {title:8}  {printable(', '.join(truncate(values)))}"))
    if note := describe_image_folders(report.image_folders, len(report.videos)):
        console.print(Text(f"  {note}"))


def _print_class_counts(console: Console, report: DataReport) -> None:
    """Print the number of readable samples per class; of many classes, the largest and the smallest."""
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
    for index, (name, counts, total) in enumerate(rows):
        if MAX_CLASSES // 2 <= index < len(rows) - MAX_CLASSES // 2:
            if index == MAX_CLASSES // 2:
                table.add_row(f"  ({len(rows) - MAX_CLASSES} in between)")
            continue
        table.add_row(Text(f"  {printable(name)}"), *map(str, counts), draw_bar(console, total / largest))
    console.print(table)


class _Section(NamedTuple):
    """A title with lines; problems are printed in red, warnings in yellow."""

    title: str
    is_problem: bool
    lines: Sequence[str]


def _sections(report: DataReport) -> list[_Section]:
    """Return all problems and warnings, problems first."""
    reported = {group.rows for group in (*report.contradictions, *report.leaks)}
    repeats = [group for group in report.repeats if group.rows not in reported]
    sections = [
        _Section(
            "Cannot be read",
            True,
            [f"{_relative_path(report, f.path)}: {f.reason}" for f in report.unreadable],
        ),
        _Section("Labeled part outside of its video", True, _finding_lines(report, report.outside)),
        _Section("Contradicting labels", True, _group_lines(report, report.contradictions)),
        _Section("Shared between splits", True, _group_lines(report, report.leaks)),
        _Section("Duplicates", False, _group_lines(report, repeats)),
        _Section("Near duplicates, or the same scene", False, _group_lines(report, report.possible_copies)),
        _Section("Damaged: the readable part is used", False, _finding_lines(report, report.damaged)),
        _Section(
            "Shorter than a clip: fine-tuning shortens clips to fit most videos and loops the others",
            False,
            _finding_lines(report, report.too_short),
        ),
        _Section("Outliers", False, _finding_lines(report, report.odd)),
        *_note_sections(report),
        _Section("File properties that predict the class", False, report.telltale),
    ]
    return [
        section._replace(title=f"{section.title} ({len(section.lines)})")
        for section in sections
        if section.lines
    ] + _class_warnings(report)


def _note_sections(report: DataReport) -> list[_Section]:
    """Return a section for each note, with the videos that it is about."""
    paths: dict[str, list[str]] = {}
    for finding in report.notes:
        paths.setdefault(finding.what, []).append(_relative_path(report, finding.path))
    return [_Section(f"{note[0].upper()}{note[1:]}", False, lines) for note, lines in paths.items()]


def _class_warnings(report: DataReport) -> list[_Section]:
    """Return sections about classes that are missing, of very different size, or too small."""
    missing = [f"{split}: {', '.join(truncate(names))}" for split, names in report.missing_classes.items()]
    sections = [_Section("Classes without a sample", False, missing)] if missing else []
    if (report.imbalance or 1) > LARGE_IMBALANCE:
        cure = "consider training with --set data.class_balanced=true"
        line = f"the largest class has {report.imbalance:.0f} times the samples of the smallest: {cure}"
        sections.append(_Section("Class imbalance", False, [line]))
    if report.hardly_validated:
        names = ", ".join(truncate(report.hardly_validated))
        line = f"fewer than 3 validation videos, too few to measure an accuracy: {names}"
        sections.append(_Section("Too few validation videos", False, [line]))
    return sections


def _finding_lines(report: DataReport, findings: Iterable[Finding]) -> list[str]:
    """Return a line for each finding: its file and what was found."""
    return [f"{_relative_path(report, finding.path)}: {finding.what}" for finding in findings]


def _group_lines(report: DataReport, groups: Iterable[Group]) -> list[str]:
    """Return a line for each group: what its samples have in common, and their files."""
    lines = []
    for group in groups:
        names: dict[str, str] = {}
        for row in group.rows:
            name = _relative_path(report, report.manifest.samples[row].path)
            first = next(iter(names), name)
            names[name] = f"{name} (a mirror image of {first})" if row in group.mirrored_rows else name
        lines.append(f"{group.what}: {', '.join(truncate(list(names.values())))}")
    return lines


def _relative_path(report: DataReport, path: str) -> str:
    """Return a path relative to the folder that was checked or that contains the list."""
    source = report.manifest.source
    folder = os.path.normpath(source if os.path.isdir(source) else os.path.dirname(source))
    return os.path.normpath(path).removeprefix(os.path.join(folder, ""))


def _next_steps(report: DataReport, written: str | None, start: str, root: str | None) -> list[str]:
    """Return sentences with the commands to run next."""
    from videoswin.data.check.advice import describe_missing_groups
    from videoswin.data.check.report import HELD_OUT

    num_samples, num_clean = len(report.manifest.samples), len(report.clean().samples)
    if num_clean == 0:
        return ["Training is not possible: no sample can be used."]
    steps = []
    data = report.manifest.source
    if num_clean < num_samples:
        data, root = written or "clean.csv", None  # its paths are relative to its own folder
        fraction = f"{num_clean} of {plural(num_samples, 'sample')}"
        steps.append(
            f"{written} lists the {fraction} that can be used."
            if written
            else f"Add --write {data} to the command for a list of the {fraction} that can be used."
        )
    if report.lasting_leaks:
        steps.append(
            "Several splits still share parts of one video or videos of one group: split again, whole videos "
            "and groups at a time."
        )
        return steps
    if reason := report.single_class:
        return [*steps, f"Training is not possible: {reason}."]
    command = f"videoswin train finetune --data {shlex.quote(data)} --model {shlex.quote(start)} --out run/"
    command += f" --set {shlex.quote(f'data.root={root}')}" if root is not None else ""
    groups = [] if report.has_groups else describe_missing_groups(report.clean(), command, fraction=HELD_OUT)
    return [*steps, *groups, f"To train: {command}"]
