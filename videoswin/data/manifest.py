"""Read and write manifests: labeled videos as one table, from any supported list or folder."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections import Counter
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final
from unicodedata import normalize

from videoswin._errors import InputError
from videoswin._files import write_text
from videoswin._text import csv_cell, did_you_mean, is_printable_name, plural
from videoswin.data.lists import read_listing
from videoswin.data.lists.rows import Listing, Row, folded_name, read_class_names
from videoswin.data.lists.tables import csv_text, join_labels

MAX_CLASS_NUMBER: Final = 99_999
"""Largest class index; a larger number in a list identifies something other than a class."""


@dataclass(frozen=True, kw_only=True)
class Sample:
    """One labeled video, or one labeled part of a video."""

    path: str
    """Video file or folder of frames; absolute, or relative to the working directory."""
    labels: tuple[int, ...]
    """Indices into the classes of the manifest: exactly one, unless the manifest is multi-label."""
    start_seconds: float | None = None
    """Start of the labeled part in seconds; None means the start of the video."""
    end_seconds: float | None = None
    """End of the labeled part in seconds; None means the end of the video."""
    split: str | None = None
    """`train`, `val` or `test`; None if the list does not specify a split."""
    group: str | None = None
    """Name of what the sample shares with other samples, such as a person, a place or the source video; None
    if unknown. Samples of one group are never split between training and validation."""


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """Labeled videos and the names of their classes."""

    source: str
    """The folder or file that was read."""
    classes: tuple[str, ...]
    """Class names, sorted or in the order of the dataset; a label is an index into them."""
    samples: tuple[Sample, ...]
    """Labeled videos and parts of videos, in the order of the list."""
    multi_label: bool = False
    """True if a video can have any number of labels."""
    notes: tuple[str, ...] = field(default=(), compare=False)
    """Notes for the user on how the list was read: choices made and files skipped, one sentence each."""

    def __repr__(self) -> str:
        samples, classes = plural(len(self.samples), "sample"), plural(len(self.classes), "class")
        return f"Manifest({self.source}, {samples}, {classes})"

    @property
    def splits(self) -> tuple[str, ...]:
        """Return the splits of the samples, sorted; empty if no sample has a split."""
        return tuple(sorted({sample.split for sample in self.samples if sample.split is not None}))

    def part(self, split: str) -> Manifest:
        """Return the samples of one split, with the same classes.

        Raises:
            InputError: No sample has this split.
        """
        samples = tuple(sample for sample in self.samples if sample.split == split)
        if not samples:
            known = ", ".join(self.splits) or "none; the list has no splits"
            raise InputError(f"{self.source}: no video of split {split!r}; the splits are: {known}")
        return replace(self, samples=samples)

    @property
    def digest(self) -> str:
        """Return the SHA-256 of the file names, parts, labels and classes, in order; folders do not count."""
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
    """Read the labeled videos of a folder or list; the format is detected from the contents.

    Supported formats:

    - a folder with one folder per class, with or without folders of splits above them;
    - CSV, TSV, Parquet or JSON with path and label, and optionally start, end, split and group;
    - the lists of Kinetics, Something-Something, UCF101, HMDB51, Diving48, ActivityNet, MMAction2, GluonCV
      and VideoMAE;
    - exports of Label Studio and FiftyOne.

    A split file of UCF101 or HMDB51 selects its whole fold, training and test; their folder selects fold 1.
    A video that does not exist is kept in the manifest; if the first video exists, only that one is checked.

    Args:
        path: Folder or list file; `~` is the home folder.
        root: Folder that the paths of a list are relative to; None means the folder of the list. The videos
            of Kinetics, Something-Something, UCF101 and HMDB51 are found by name anywhere below it.
        classes: Class names in the order of the labels. None takes the first that exists of: the file
            `list.csv.classes.txt` beside `list.csv`, one name per line; the class names of the dataset in its
            own order; the names in the list, sorted; "0", "1", ... if the labels are integers. Labels match
            class names regardless of case, of `_` in place of a space, and of the Unicode form.

    Returns:
        The manifest, with notes on how the list was read.

    Raises:
        InputError: The list is invalid (the message has file, line, column, requirement and value), or none
            of its videos exists.
        ImportError: The list is a Parquet file and pyarrow is not installed.
    """
    source = _expanded(path)
    root = None if root is None else _expanded(root)
    if not os.path.exists(source):
        raise InputError(f"{source}: there is no such file or folder")
    if root is not None and not os.path.isdir(root):
        raise InputError(f"root must be a folder, got {root}")
    if classes is None and os.path.exists(_classes_file(source)):
        classes = read_class_names(_classes_file(source))
    _check_names(classes or (), source)
    listing = _normalize_unicode(read_listing(source, root, classes or ()))
    if not listing.rows:
        raise InputError(f"{source}: the list must have at least one video, got none")
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
        for row, path, row_labels in zip(
            listing.rows, _match_disk_spelling(listing.rows), labels, strict=True
        )
    )
    if not any(os.path.exists(sample.path) for sample in samples):
        raise InputError(
            f"{source}: none of its {plural(len(samples), 'video')} exists, the first is expected at "
            f"{samples[0].path}; set root to the folder that the paths are relative to"
        )
    return Manifest(
        source=listing.source,
        classes=names,
        samples=samples,
        multi_label=listing.multi_label,
        notes=tuple(f"{source}: {note}" for note in (*listing.notes, *_notes(listing, names))),
    )


def write_manifest(manifest: Manifest, path: str | os.PathLike[str]) -> None:
    """Write a manifest as a CSV that `read_manifest` reads back; the file is written atomically.

    Paths of videos below the folder of the CSV are written relative to it, other paths are absolute. Class
    names are written to a file beside it, `list.csv.classes.txt` for `list.csv`, unless they are exactly the
    sorted names in use.

    Args:
        manifest: Labeled videos to write.
        path: CSV file to create or replace.

    Raises:
        InputError: A name cannot be written as UTF-8, or a class name is invalid.
    """
    source = os.fspath(path)
    _check_names(manifest.classes, manifest.source)
    columns = ["path", "labels" if manifest.multi_label else "label", "start", "end", "split", "group"]
    folder = os.path.abspath(os.path.dirname(source))
    rows = [_csv_cells(sample, manifest.classes, folder) for sample in manifest.samples]
    # Empty optional columns are left out.
    kept = [column for column in range(len(columns)) if column < 2 or any(row[column] for row in rows)]
    text = csv_text([[row[column] for column in kept] for row in [columns, *rows]])
    used = {manifest.classes[label] for sample in manifest.samples for label in sample.labels}
    if _default_classes(used) == manifest.classes:
        Path(_classes_file(source)).unlink(missing_ok=True)
    else:
        _write_list(_classes_file(source), "".join(f"{name}\n" for name in manifest.classes))
    _write_list(source, text)


def _expanded(path: str | os.PathLike[str]) -> str:
    """Expand `~/videos` to `/home/me/videos`, which a shell does not do after `--data=`."""
    text = os.fspath(path)
    return text if os.path.exists(text) else os.path.expanduser(text)


def _normalize_unicode(listing: Listing) -> Listing:
    """Return the listing with class names in Unicode's composed form (NFC); macOS file names are in NFD."""
    rows = [
        row._replace(labels=tuple(dict.fromkeys(normalize("NFC", label) for label in row.labels)))
        for row in listing.rows
    ]
    classes = listing.classes and tuple(normalize("NFC", name) for name in listing.classes)
    return replace(listing, rows=rows, classes=classes)


def _match_disk_spelling(rows: list[Row]) -> list[str]:
    """Return the paths in the spelling under which the videos exist.

    Windows writes `folder\\a.mp4`, and macOS uses another Unicode form for accented letters than other
    systems. Only paths with another possible spelling are looked up on the disk.
    """
    paths = [row.path.replace(f"{os.sep}.{os.sep}", os.sep) for row in rows]  # one name for one file
    slashes = [path.replace("\\", "/") for path in paths]
    if os.sep != "\\" and any(map(_exists_only_as, slashes, paths)):
        paths = slashes
    for form in ("NFC", "NFD"):
        others = (normalize(form, path) for path in paths)
        paths = [
            other if _exists_only_as(other, path) else path for other, path in zip(others, paths, strict=True)
        ]
    return paths


def _exists_only_as(spelling: str, path: str) -> bool:
    """Return whether the file exists under `spelling` but not under `path`."""
    return spelling != path and os.path.exists(spelling) and not os.path.exists(path)


def _notes(listing: Listing, names: tuple[str, ...]) -> list[str]:
    """Return notes that apply to every list format: multi-label, and classes with similar names."""
    notes = []
    if listing.multi_label:
        several = sum(len(row.labels) > 1 for row in listing.rows)
        notes.append(
            f"multi-label: {several} of {len(listing.rows)} videos have several labels, so each class is "
            "predicted independently, and the metric is mAP instead of accuracy"
        )
    counts = Counter(map(folded_name, names))
    for folded in (folded for folded, count in counts.items() if count > 1):
        similar = " and ".join(repr(name) for name in names if folded_name(name) == folded)
        notes.append(f"{similar} are different classes: should they be one?")
    return notes


def _classes_of(
    listing: Listing, classes: tuple[str, ...] | None
) -> tuple[tuple[str, ...], list[tuple[int, ...]]]:
    """Return the names of all classes, and the labels of each row as indices into them."""
    used = {label for row in listing.rows for label in row.labels}
    names = classes if classes is not None else listing.classes
    if names is None:
        names = _default_classes(used)
    if not names:
        raise InputError(f"{listing.source}: at least one video must have a label, got none")
    index = {name: number for number, name in enumerate(names)}
    if not used <= index.keys() and _are_integers(used):
        index = {str(number): number for number in range(len(names))}
    else:
        counts = Counter(map(folded_name, names))
        folded = {folded_name(name): i for name, i in index.items() if counts[folded_name(name)] == 1}
        index = {label: folded[folded_name(label)] for label in used if folded_name(label) in folded} | index
    for row in listing.rows:
        if unknown := [label for label in row.labels if label not in index]:
            hint = ""
            if _are_integers(used):
                allowed = f"a number from 0 to {len(names) - 1}"
            else:
                allowed = f"one of {plural(len(names), 'class')}"
                if suggestion := did_you_mean(unknown[0], names):
                    hint = f": {suggestion}"
            raise InputError(f"{row.where}: the label must be {allowed}, got {unknown[0]!r}{hint}")
    return names, [tuple(dict.fromkeys(index[label] for label in row.labels)) for row in listing.rows]


def _default_classes(labels: set[str]) -> tuple[str, ...]:
    """Return the labels, sorted; if all are integers, every integer from 0 to the largest."""
    if not _are_integers(labels):
        return tuple(sorted(labels))
    highest = max((int(label) for label in labels), default=-1)
    return tuple(str(number) for number in range(min(highest, MAX_CLASS_NUMBER) + 1))


def _are_integers(labels: set[str]) -> bool:
    return all(re.fullmatch(r"0|-?[1-9][0-9]{0,17}", label) for label in labels)


def _check_names(names: tuple[str, ...], source: str) -> None:
    """Raise InputError for duplicate class names and for names that cannot be printed on one line."""
    if len(set(names)) < len(names):
        duplicate = next(name for name in names if names.count(name) > 1)
        raise InputError(f"{source}: class names must be unique, got {duplicate!r} twice")
    for name in names:
        if not is_printable_name(name) or name != name.strip():
            raise InputError(
                f"{source}: the class name {name!r} is empty, or has control characters, line breaks or "
                "leading or trailing white space: rename the class"
            )


def _csv_cells(sample: Sample, classes: tuple[str, ...], folder: str) -> list[str]:
    """Return path, label, start, end, split and group as text."""
    path, below = os.path.abspath(sample.path), os.path.join(folder, "")
    times = ["" if time is None else repr(time) for time in (sample.start_seconds, sample.end_seconds)]
    labels = join_labels(classes[label] for label in sample.labels)
    path = path.removeprefix(below)
    if csv_cell(path) != path:
        path = os.path.join(os.curdir, path)  # the same file, but not a formula for a spreadsheet
    return [path, labels, *times, sample.split or "", sample.group or ""]


def _write_list(path: str, text: str) -> None:
    """Write a list or its class names; InputError for a name that `read_manifest` could not read back."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        name = text[max(error.start - 20, 0) : error.end + 20]
        raise InputError(f"{path}: {name!r} cannot be written as UTF-8: rename it") from error
    write_text(Path(path), text)


def _classes_file(path: str) -> str:
    """Return the path of the optional file with the class names of a list."""
    return f"{path.rstrip(os.sep)}.classes.txt"
