"""Labeled videos as one table, whatever kind of list or folder they come from."""

from __future__ import annotations

import difflib
import hashlib
import json
import os
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final
from unicodedata import normalize

from videoswin._errors import InputError
from videoswin._files import replacing
from videoswin._text import csv_cell, is_printable_name, plural
from videoswin.data.holdout import choose_held_out
from videoswin.data.lists.published import read_listing
from videoswin.data.lists.rows import Listing, Row, folded_name, read_class_names
from videoswin.data.lists.tables import csv_text, join_labels

MAX_CLASS_NUMBER: Final = 99_999
"""A number above this is the identifier of something else than a class."""


@dataclass(frozen=True, kw_only=True)
class Sample:
    """One labeled video, or a part of one."""

    path: str
    """File, or folder of frames; absolute, or relative to the working directory."""
    labels: tuple[int, ...]
    """Indices into the manifest's classes: exactly one, unless the manifest is multi-label."""
    start_seconds: float | None = None
    """Where the labeled part begins; None is the beginning of the video."""
    end_seconds: float | None = None
    """Where it ends; None is the end of the video."""
    split: str | None = None
    """`train`, `val`, `test`, or None where the list does not say."""
    group: str | None = None
    """What it shares with others, such as a person, a place or the film it was cut from; None if not known.
    Samples of one group are never split between training and validation."""


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """Labeled videos and the names of their classes."""

    source: str
    """The folder or file that was read."""
    classes: tuple[str, ...]
    """Sorted names, or those given by the dataset in its own order; a label is an index into them."""
    samples: tuple[Sample, ...]
    multi_label: bool = False
    """True if a video can have any number of labels."""
    notes: tuple[str, ...] = field(default=(), compare=False)
    """What a user should know of how it was read: what was decided and what was left out, a sentence each."""

    def __repr__(self) -> str:
        samples, classes = plural(len(self.samples), "sample"), plural(len(self.classes), "class")
        return f"Manifest({self.source}, {samples}, {classes})"

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
    """The labeled videos of a folder or list in any known form, recognized by its contents.

    A folder with one folder for each class, and splits above these or not; CSV, TSV, Parquet or JSON with
    path and label, and start, end, split and group if need be; the lists of Kinetics, Something-Something,
    UCF101, HMDB51, Diving48, ActivityNet, MMAction2, GluonCV and VideoMAE; exports of Label Studio and
    FiftyOne. A file of UCF101 or HMDB51 stands for its fold, training and test; their folder for fold 1.

    `root` is where the paths of a list begin, by default the folder of the list; the videos of Kinetics,
    Something-Something, UCF101 and HMDB51 are found by their names anywhere below it.

    `classes` are the names in the order of the labels. By default they are those of a file beside the list,
    `list.csv.classes.txt` for `list.csv`, one a line; else those that the data set brings in its own order;
    else the names in the list, sorted; else, where labels are numbers, "0", "1", ... A label finds its class
    in spite of upper case, `_` for a space, and another Unicode form of the same letters.

    A video that does not exist is kept, but ValueError if none does: one look-up on the disk if the first
    does. ValueError for a faulty list, with file, line and column, what was found and what was wanted.
    """
    source = _expanded(path)
    root = None if root is None else _expanded(root)
    if not os.path.exists(source):
        raise InputError(f"{source}: there is no such file or folder")
    if root is not None and not os.path.isdir(root):
        raise InputError(f"root is {root}, which is no folder")
    if classes is None and os.path.exists(_classes_file(source)):
        classes = read_class_names(_classes_file(source))
    _check_names(classes or (), source)
    listing = _composed(read_listing(source, root, classes or ()))
    if not listing.rows:
        raise InputError(f"{source}: no video in it")
    names, labels = _classes_of(listing, classes)
    _check_names(names, source)
    samples = tuple(
        Sample(
            path=path,
            labels=row_labels,
            start_seconds=row.start_seconds,
            end_seconds=row.end_seconds,
            split=row.split,
            group=row.group,
        )
        for row, path, row_labels in zip(listing.rows, _as_on_disk(listing.rows), labels, strict=True)
    )
    if not any(os.path.exists(sample.path) for sample in samples):
        raise InputError(
            f"{source}: none of its {plural(len(samples), 'video')} exists, the first would be "
            f"{samples[0].path}; is root the folder where the paths begin?"
        )
    return Manifest(
        source=listing.source,
        classes=names,
        samples=samples,
        multi_label=listing.multi_label,
        notes=tuple(f"{source}: {note}" for note in (*listing.notes, *_notes(listing, names))),
    )


def write_manifest(manifest: Manifest, path: str | os.PathLike[str]) -> None:
    """Write a CSV that read_manifest reads back, whole or not at all.

    Videos below its folder are written relative to it, others with their whole path. Class names go into
    a file beside it, `list.csv.classes.txt` for `list.csv`, if they are not just the sorted names in use.
    """
    source = os.fspath(path)
    _check_names(manifest.classes, manifest.source)
    columns = ["path", "labels" if manifest.multi_label else "label", "start", "end", "split", "group"]
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
    where videos have several labels, the rest comes first. A file and its parts are on one side, and so are
    all samples of a group, where a class of one group counts as one of a single video. InputError if nothing
    can be held out.
    """
    units = _units(manifest.samples)
    videos: dict[str, dict[int, set[str]]] = {}
    for sample, unit in zip(manifest.samples, units, strict=True):
        # To have no label counts as a class of its own.
        for label in sample.labels or (len(manifest.classes),):
            videos.setdefault(unit, {}).setdefault(label, set()).add(os.path.normpath(sample.path))
    counts = {unit: {label: len(paths) for label, paths in of.items()} for unit, of in videos.items()}
    held = choose_held_out(counts, part, seed)
    what = "group" if any(sample.group for sample in manifest.samples) else "video"
    if not held:
        cure = "choose other groups (data.group_by), or " if what == "group" else ""
        raise InputError(
            f"{manifest.source}: no {what} can be held out to validate on, as each is the only one of a "
            f"class ({_sizes(units, what)}); {cure}to train without validation set data.val_fraction=0"
        )
    sides: tuple[list[Sample], list[Sample]] = ([], [])
    for sample, unit in zip(manifest.samples, units, strict=True):
        sides[unit in held].append(sample)
    rest, held_out = (replace(manifest, samples=tuple(side)) for side in sides)
    unseen = {label for sample in rest.samples for label in sample.labels} - {
        label for sample in held_out.samples for label in sample.labels
    }
    if unseen:
        names = ", ".join(repr(manifest.classes[label]) for label in sorted(unseen)[:5])
        more = ", ..." if len(unseen) > 5 else ""
        note = f"{plural(len(unseen), 'class')} not validated, for lack of a second {what}: {names}{more}"
        held_out = replace(held_out, notes=(*held_out.notes, f"{manifest.source}: {note}"))
    return rest, held_out


def _sizes(units: list[str], what: str) -> str:
    """How many groups or videos there are and, of groups, how large the largest is."""
    sizes = Counter(units)
    largest = f", the largest with {max(sizes.values())} of {plural(len(units), 'sample')}"
    return plural(len(sizes), what) + largest * (what == "group")


def _units(samples: Iterable[Sample]) -> list[str]:
    """For each sample a name that it shares with those of its file, of its group, and of theirs."""
    samples = list(samples)
    parent: dict[tuple[str, str], tuple[str, str]] = {}

    def root_of(node: tuple[str, str]) -> tuple[str, str]:
        while (above := parent.setdefault(node, node)) != node:
            parent[node] = parent[above]
            node = above
        return node

    paths = [os.path.abspath(sample.path) for sample in samples]
    # Relative, so that the same videos make the same choice wherever they lie and however that is spelled.
    folder = os.path.commonpath(map(os.path.dirname, paths))
    nodes = [("file", os.path.relpath(path, folder)) for path in paths]
    for node, sample in zip(nodes, samples, strict=True):
        if sample.group is not None:
            parent[root_of(node)] = root_of(("group", sample.group))
    members: dict[tuple[str, str], str] = {}
    for node, sample in zip(nodes, samples, strict=True):
        # Named after its first file or its group, so that names do not depend on the order of samples.
        name = node[1] if sample.group is None else sample.group
        members[root_of(node)] = min(members.get(root_of(node), name), name)
    return [members[root_of(node)] for node in nodes]


def _expanded(path: str | os.PathLike[str]) -> str:
    """`~/videos` -> `/home/me/videos`, which a shell does not do behind `--data=`."""
    text = os.fspath(path)
    return text if os.path.exists(text) else os.path.expanduser(text)


def _composed(listing: Listing) -> Listing:
    """The listing with names in Unicode's composed form: macOS writes the same letters in another one."""
    rows = [
        row._replace(labels=tuple(dict.fromkeys(normalize("NFC", label) for label in row.labels)))
        for row in listing.rows
    ]
    classes = listing.classes and tuple(normalize("NFC", name) for name in listing.classes)
    return replace(listing, rows=rows, classes=classes)


def _as_on_disk(rows: list[Row]) -> list[str]:
    """The paths, in another spelling where only that finds videos.

    Windows writes `folder\\a.mp4`, and macOS accented letters in another Unicode form than other systems.
    Only paths that have another spelling are looked up.
    """
    paths = [row.path.replace(f"{os.sep}.{os.sep}", os.sep) for row in rows]  # one name for one file
    slashes = [path.replace("\\", "/") for path in paths]
    if os.sep != "\\" and any(map(_finds_more, slashes, paths)):
        paths = slashes
    for form in ("NFC", "NFD"):
        others = (normalize(form, path) for path in paths)
        paths = [
            other if _finds_more(other, path) else path for other, path in zip(others, paths, strict=True)
        ]
    return paths


def _finds_more(spelling: str, path: str) -> bool:
    return spelling != path and os.path.exists(spelling) and not os.path.exists(path)


def _notes(listing: Listing, names: tuple[str, ...]) -> list[str]:
    """What follows from the rows of any list."""
    notes = []
    if listing.multi_label:
        several = sum(len(row.labels) > 1 for row in listing.rows)
        notes.append(
            f"multi-label: {several} of {len(listing.rows)} videos have several labels, so each class is "
            "predicted on its own, and scored by mAP instead of accuracy"
        )
    alike = Counter(map(folded_name, names))
    for folded in (folded for folded, count in alike.items() if count > 1):
        twice = " and ".join(repr(name) for name in names if folded_name(name) == folded)
        notes.append(f"{twice} are different classes: should they be one?")
    return notes


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
    else:
        alike = Counter(map(folded_name, names))
        folded = {folded_name(name): place for name, place in index.items() if alike[folded_name(name)] == 1}
        index = {label: folded[folded_name(label)] for label in used if folded_name(label) in folded} | index
    for row in listing.rows:
        if unknown := [label for label in row.labels if label not in index]:
            if _are_numbers(used):
                wanted = f"a number from 0 to {len(names) - 1}"
            else:
                near = difflib.get_close_matches(unknown[0], names, 1)
                wanted = (
                    f"one of {plural(len(names), 'class')}{f': did you mean {near[0]!r}?' if near else ''}"
                )
            raise InputError(f"{row.where}: found the label {unknown[0]!r}, wanted {wanted}")
    return names, [tuple(dict.fromkeys(index[label] for label in row.labels)) for row in listing.rows]


def _classes_in_use(labels: set[str]) -> tuple[str, ...]:
    """The names, sorted; if all are whole numbers, every number from 0 to the highest."""
    if not _are_numbers(labels):
        return tuple(sorted(labels))
    highest = max((int(label) for label in labels), default=-1)
    return tuple(str(number) for number in range(min(highest, MAX_CLASS_NUMBER) + 1))


def _are_numbers(labels: set[str]) -> bool:
    return all(re.fullmatch(r"0|-?[1-9][0-9]{0,17}", label) for label in labels)


def _check_names(names: tuple[str, ...], source: str) -> None:
    """InputError for names of classes that are there twice, or that cannot be printed on one line."""
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise InputError(f"{source}: the class {twice!r} is there twice")
    for name in names:
        if not is_printable_name(name) or name != name.strip():
            raise InputError(
                f"{source}: the class name {name!r} is empty, or has control characters, line breaks or "
                "white space around it: rename the class"
            )


def _cells(sample: Sample, classes: tuple[str, ...], folder: str) -> list[str]:
    """path, label, start, end, split and group as text."""
    path, below = os.path.abspath(sample.path), os.path.join(folder, "")
    times = ["" if time is None else repr(time) for time in (sample.start_seconds, sample.end_seconds)]
    labels = join_labels(classes[label] for label in sample.labels)
    path = path.removeprefix(below)
    if csv_cell(path) != path:
        path = os.path.join(os.curdir, path)  # the same file, and no formula for a spreadsheet
    return [path, labels, *times, sample.split or "", sample.group or ""]


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
