"""Labelled videos as one table, whatever kind of list or folder they come from."""

from __future__ import annotations

import difflib
import hashlib
import json
import os
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from videoswin._errors import InputError
from videoswin._files import replacing
from videoswin.data.holdout import choose_held_out
from videoswin.data.lists.published import read_listing
from videoswin.data.lists.rows import Listing, read_class_names
from videoswin.data.lists.tables import csv_text, join_labels

MAX_CLASS_NUMBER: Final = 99_999
"""A number above this is the identifier of something else than a class."""


@dataclass(frozen=True, kw_only=True)
class Sample:
    """One labelled video, or a part of one."""

    path: str
    """File, or folder of frames; absolute, or relative to the working directory."""
    labels: tuple[int, ...]
    """Indices into the manifest's classes: exactly one, unless the manifest is multi-label."""
    start_seconds: float | None = None
    """Where the labelled part begins; None is the beginning of the video."""
    end_seconds: float | None = None
    """Where it ends; None is the end of the video."""
    split: str | None = None
    """`train`, `val`, `test`, or None where the list does not say."""


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """Labelled videos and the names of their classes."""

    source: str
    """The folder or file that was read."""
    classes: tuple[str, ...]
    """Sorted names, or those given by the dataset in its own order; a label is an index into them."""
    samples: tuple[Sample, ...]
    multi_label: bool = False
    """True if a video can have any number of labels."""

    def __repr__(self) -> str:
        return f"Manifest({self.source}, {len(self.samples)} samples, {len(self.classes)} classes)"

    @property
    def splits(self) -> tuple[str, ...]:
        """The splits that samples name, sorted; empty if none does."""
        return tuple(sorted({sample.split for sample in self.samples if sample.split is not None}))

    def part(self, split: str) -> Manifest:
        """The samples of one split, with the same classes. ValueError if there are none."""
        samples = tuple(sample for sample in self.samples if sample.split == split)
        if not samples:
            there = ", ".join(self.splits) or "it names no splits"
            raise InputError(f"{self.source}: no video of split {split!r}; the splits are: {there}")
        return replace(self, samples=samples)

    @property
    def digest(self) -> str:
        """SHA-256 of what is asked about: file names, parts, labels and classes, in order; not of folders."""
        digest = hashlib.sha256(json.dumps([self.multi_label, self.classes]).encode())
        for sample in self.samples:
            times = [t if t is None else float(t) for t in (sample.start_seconds, sample.end_seconds)]
            name = os.path.basename(os.path.normpath(sample.path))
            digest.update(json.dumps([name, *times, sample.labels]).encode())
        return digest.hexdigest()


def read_manifest(
    path: str | os.PathLike[str],
    *,
    root: str | os.PathLike[str] | None = None,
    classes: tuple[str, ...] | None = None,
) -> Manifest:
    """The labelled videos of a folder or list in any known form, recognised by its contents.

    A folder with one folder for each class, and splits above these or not; CSV, TSV or Parquet with path and
    label, and start, end and split if need be; the lists of Kinetics, Something-Something v2, UCF101, HMDB51
    and MMAction2. A file of UCF101 or HMDB51 stands for its fold, training and test; their folder for fold 1.

    `root` is where the paths of a list begin, by default the folder of the list; the videos of Kinetics,
    Something-Something, UCF101 and HMDB51 are found by their names anywhere below it.

    `classes` are the names in the order of the labels. By default they are those of a file beside the list,
    `list.csv.classes.txt` for `list.csv`, one a line; else those that the data set brings in its own order;
    else the names in the list, sorted; else, where labels are numbers, "0", "1", ...

    A video that does not exist is kept, but ValueError if none does: one look-up on the disk if the first
    does. ValueError for a faulty list, with file, line and column, what was found and what was wanted.
    """
    source = os.fspath(path)
    if not os.path.exists(source):
        raise InputError(f"{source}: there is no such file or folder")
    if root is not None and not os.path.isdir(root):
        raise InputError(f"root is {os.fspath(root)}, which is no folder")
    if classes is None and os.path.exists(_classes_file(source)):
        classes = read_class_names(_classes_file(source))
    _check_names(classes or (), source)
    listing = read_listing(source, None if root is None else os.fspath(root), classes or ())
    if not listing.rows:
        raise InputError(f"{source}: no video in it")
    names, labels = _classes_of(listing, classes)
    _check_names(names, source)
    samples = tuple(
        Sample(
            path=row.path,
            labels=row_labels,
            start_seconds=row.start_seconds,
            end_seconds=row.end_seconds,
            split=row.split,
        )
        for row, row_labels in zip(listing.rows, labels, strict=True)
    )
    if not any(os.path.exists(sample.path) for sample in samples):
        raise InputError(
            f"{source}: none of its {len(samples)} videos exists, the first would be {samples[0].path}; "
            "is root the folder where the paths begin?"
        )
    return Manifest(source=listing.source, classes=names, samples=samples, multi_label=listing.multi_label)


def write_manifest(manifest: Manifest, path: str | os.PathLike[str]) -> None:
    """Write a CSV that read_manifest reads back, whole or not at all.

    Videos below its folder are written relative to it, others with their whole path. Class names go into
    a file beside it, `list.csv.classes.txt` for `list.csv`, if they are not just the sorted names in use.
    """
    source = os.fspath(path)
    _check_names(manifest.classes, manifest.source)
    columns = ["path", "labels" if manifest.multi_label else "label", "start", "end", "split"]
    folder = os.path.abspath(os.path.dirname(source))
    rows = [_cells(sample, manifest.classes, folder) for sample in manifest.samples]
    # A column that says nothing is left out.
    kept = [column for column in range(len(columns)) if column < 2 or any(row[column] for row in rows)]
    text = csv_text([[row[column] for column in kept] for row in [columns, *rows]])
    used = {manifest.classes[label] for sample in manifest.samples for label in sample.labels}
    if _classes_in_use(used) == manifest.classes:
        Path(_classes_file(source)).unlink(missing_ok=True)
    else:
        _write_text(_classes_file(source), "".join(f"{name}\n" for name in manifest.classes))
    _write_text(source, text)


def hold_out(manifest: Manifest, part: float, *, seed: int) -> tuple[Manifest, Manifest]:
    """(the rest, the held-out): `part` of each class, the same for the same seed.

    A class of two or more videos has at least one on each side, one of a single video has it in the rest;
    where videos have several labels, the rest comes first. A file, and the parts of it, are on one side.
    ValueError if nothing can be held out.
    """
    if not 0 < part < 1:
        raise InputError(f"part is {part}, wanted more than 0 and less than 1")
    labels_of: dict[str, set[int]] = {}
    for sample in manifest.samples:
        # To have no label counts as a class of its own.
        labels_of.setdefault(os.path.normpath(sample.path), set()).update(
            sample.labels or (len(manifest.classes),)
        )
    held = choose_held_out(labels_of, part, seed)
    if not held:
        raise InputError(f"{manifest.source}: no video can be held out that is not the last of a class")
    sides: tuple[list[Sample], list[Sample]] = ([], [])
    for sample in manifest.samples:
        sides[os.path.normpath(sample.path) in held].append(sample)
    rest, held_out = (replace(manifest, samples=tuple(side)) for side in sides)
    return rest, held_out


def _classes_of(
    listing: Listing, classes: tuple[str, ...] | None
) -> tuple[tuple[str, ...], list[tuple[int, ...]]]:
    """The names of all classes, and the labels of each row as indices into them."""
    used = {label for row in listing.rows for label in row.labels}
    names = classes if classes is not None else listing.classes
    if names is None:
        names = _classes_in_use(used)
    if not names:
        raise InputError(f"{listing.source}: no video has a label")
    index = {name: number for number, name in enumerate(names)}
    if not used <= index.keys() and _are_numbers(used):
        index = {str(number): number for number in range(len(names))}
    for row in listing.rows:
        if unknown := [label for label in row.labels if label not in index]:
            if _are_numbers(used):
                wanted = f"a number from 0 to {len(names) - 1}"
            else:
                near = difflib.get_close_matches(unknown[0], names, 1)
                wanted = f"one of {len(names)} classes{f': did you mean {near[0]!r}?' if near else ''}"
            raise InputError(f"{row.where}: found the label {unknown[0]!r}, wanted {wanted}")
    return names, [tuple(index[label] for label in row.labels) for row in listing.rows]


def _classes_in_use(labels: set[str]) -> tuple[str, ...]:
    """The names, sorted; if all are whole numbers, every number from 0 to the highest."""
    if not _are_numbers(labels):
        return tuple(sorted(labels))
    highest = max((int(label) for label in labels), default=-1)
    return tuple(str(number) for number in range(min(highest, MAX_CLASS_NUMBER) + 1))


def _are_numbers(labels: set[str]) -> bool:
    return all(re.fullmatch(r"0|-?[1-9][0-9]*", label) for label in labels)


def _check_names(names: tuple[str, ...], source: str) -> None:
    """ValueError for names of classes that are there twice, or that a line of a file could not hold."""
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise InputError(f"{source}: the class {twice!r} is there twice")
    for name in names:
        if name.splitlines() != [name] or name != name.strip().strip("\ufeff"):
            raise InputError(
                f"{source}: the class name {name!r} is empty, has several lines, or white space around it"
            )


def _cells(sample: Sample, classes: tuple[str, ...], folder: str) -> list[str]:
    """path, label, start, end and split as text."""
    path, below = os.path.abspath(sample.path), os.path.join(folder, "")
    times = ["" if time is None else repr(time) for time in (sample.start_seconds, sample.end_seconds)]
    labels = join_labels(classes[label] for label in sample.labels)
    return [path.removeprefix(below), labels, *times, sample.split or ""]


def _write_text(path: str, text: str) -> None:
    try:
        content = text.encode()
    except UnicodeEncodeError as error:
        name = text[max(error.start - 20, 0) : error.end + 20]
        raise InputError(f"{path}: {name!r} cannot be written as UTF-8: rename it") from error
    with replacing(Path(path)) as partial:
        partial.write_bytes(content)


def _classes_file(path: str) -> str:
    """Where the class names of a list are, if they do not follow from it."""
    return f"{path.rstrip(os.sep)}.classes.txt"
