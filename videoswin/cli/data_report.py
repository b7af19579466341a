"""The report of `videoswin check` as a person reads it."""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, NamedTuple

from videoswin._text import plural, printable
from videoswin.cli.terminal import capped, draw_bar

if TYPE_CHECKING:
    from rich.console import Console

    from videoswin.data.check.findings import Finding, Group
    from videoswin.data.check.report import DataReport


CLASSES_SHOWN = 12

LARGE_IMBALANCE = 3.0
"""Samples of the largest class per sample of the smallest from which on a person is told."""


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
        for line in capped(section.lines):
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
            console.print(Text(f"  {title:8}  {printable(', '.join(capped(kinds)))}"))
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
        table.add_row(Text(f"  {printable(name)}"), *map(str, counts), draw_bar(console, total / largest))
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
    missing = [f"{split}: {', '.join(capped(names))}" for split, names in report.missing_classes.items()]
    sections = [_Section("Classes without a sample", False, missing)] if missing else []
    if (report.imbalance or 1) > LARGE_IMBALANCE:
        cure = "consider training with --set data.class_balanced=true"
        line = f"the largest class has {report.imbalance:.0f} times the samples of the smallest: {cure}"
        sections.append(_Section("Unequal classes", False, [line]))
    if report.hardly_validated:
        names = ", ".join(capped(report.hardly_validated))
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
        lines.append(f"{group.what}: {', '.join(capped(list(shown.values())))}")
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
    command = f"videoswin train finetune --data {shlex.quote(data)} --model {shlex.quote(start)} --out run/"
    command += f" --set {shlex.quote(f'data.root={root}')}" if root is not None else ""
    groups = [] if report.has_groups else describe_missing_groups(report.clean(), command, fraction=HELD_OUT)
    return [*steps, *groups, f"To train: {command}"]
