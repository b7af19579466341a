"""Report of the data checker: all facts, findings and statistics of labeled videos, as text and as JSON."""

from __future__ import annotations

import os
import statistics
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import Any, Final

from videoswin._text import LINES_PER_LIST, draw_bar, dump_json, first_few, plural, printable, truncate
from videoswin.data.check.advice import (
    VAL_FRACTION,
    describe_image_folders,
    describe_next_steps,
    describe_single_class,
    training_samples,
)
from videoswin.data.check.findings import (
    NO_SPLIT,
    Finding,
    Group,
    ends_after_video,
    find_leaks,
    is_empty_part,
    part_of,
    split_names,
    split_of,
)
from videoswin.data.dataset import Failure
from videoswin.data.fingerprint import VideoFacts
from videoswin.data.manifest import Manifest

MIN_VAL_VIDEOS: Final = 3
"""Number of validation videos below which the score of a class is not meaningful."""
MAX_IMBALANCE: Final = 3.0
"""Ratio of the largest to the smallest class up to which there is no warning."""
MAX_LISTED_CLASSES: Final = 12
"""Number of classes up to which all are in the text; of more, the largest and the smallest."""
_DURATIONS: Final = ("shortest", "median", "longest")


@dataclass(frozen=True, kw_only=True)
class DataReport:
    """Facts and findings about labeled videos, in the order of the manifest.

    Duplicates are videos whose decoded pixels are all equal, in any container. They are separate from near
    duplicates, which are only visually similar: another encoding, size or frame rate of a video, or two
    videos of one place with almost no motion. Mirrored copies are found; copies that are cut, cropped, sped
    up or recolored are not.
    """

    manifest: Manifest
    """The checked manifest."""
    videos: tuple[VideoFacts, ...]
    """Facts of every file with at least one decodable frame, once per file."""
    unreadable: tuple[Failure, ...]
    """Files that are missing, empty, not a video, completely damaged, or crash the decoder."""
    outside_video: tuple[Finding, ...]
    """Labeled parts outside of their video."""
    contradictions: tuple[Group, ...]
    """Samples with the same frames and different labels."""
    leaks: tuple[Group, ...]
    """Samples with the same frames, parts of one video, or the same group in different splits."""
    duplicates: tuple[Group, ...]
    """Samples with the same frames, including contradictions and leaks of whole videos."""
    near_duplicates: tuple[Group, ...]
    """Samples of visually similar videos."""
    damaged: tuple[Finding, ...]
    """Files that can be read only in part."""
    too_short: tuple[Finding, ...]
    """Samples with too few frames."""
    outliers: tuple[Finding, ...]
    """Videos with an unusual aspect ratio, frame rate, codec or rotation, or with a variable frame rate."""
    notes: tuple[Finding, ...]
    """Properties that are not damage but may reduce the accuracy of a model, such as HDR."""
    predictive_properties: tuple[str, ...]
    """File properties that predict the class, one sentence each."""

    def __repr__(self) -> str:
        samples, videos = len(self.manifest.samples), len(self.videos)
        return (
            f"DataReport({self.manifest.source}, {plural(samples, 'sample')}, "
            f"{plural(videos, 'readable video')}, {plural(self.num_problems, 'problem')})"
        )

    @property
    def num_problems(self) -> int:
        """Return the number of unreadable files, parts outside of their video, contradictions and leaks.

        All other findings, including duplicates within a split, are warnings that do not prevent training.
        """
        return sum(map(len, (self.unreadable, self.outside_video, self.contradictions, self.leaks)))

    @property
    def usable(self) -> bool:
        """Return whether there are no problems; warnings do not count."""
        return self.num_problems == 0

    @property
    def class_counts(self) -> dict[str, tuple[int, ...]]:
        """Return split -> number of readable samples per class, in the order of `manifest.classes`."""
        facts = self._facts
        counts = {split: [0] * len(self.manifest.classes) for split in split_names(self.manifest.samples)}
        for sample in self.manifest.samples:
            if sample.path in facts and not is_empty_part(sample, facts[sample.path]):
                for label in sample.labels:
                    counts[split_of(sample)][label] += 1
        return {split: tuple(of_classes) for split, of_classes in counts.items()}

    @property
    def missing_classes(self) -> dict[str, tuple[str, ...]]:
        """Return split -> classes without a readable sample; splits with all classes are left out."""
        missing = {
            split: tuple(name for name, count in zip(self.manifest.classes, counts, strict=True) if not count)
            for split, counts in self.class_counts.items()
        }
        return {split: names for split, names in missing.items() if names}

    @property
    def class_imbalance(self) -> float | None:
        """Return the size of the largest class over the smallest nonempty one, in the first split."""
        counts = [count for count in next(iter(self.class_counts.values()), ()) if count]
        return max(counts) / min(counts) if counts else None

    @property
    def single_class(self) -> str | None:
        """Return a sentence if all training samples are of one class; None if there are several classes."""
        clean = self.clean()
        return describe_single_class(clean, training_samples(clean))

    @property
    def has_groups(self) -> bool:
        """Return whether the list has groups of samples that must not be split."""
        return any(sample.group is not None for sample in self.manifest.samples)

    @property
    def num_image_folders(self) -> int:
        """Return the number of folders of images, whose frame rate is unknown."""
        return sum(video.stream.codec is None and video.bytes_digest is None for video in self.videos)

    @property
    def durations(self) -> tuple[float, float, float] | None:
        """Return the shortest, median and longest duration of a sample in seconds; None without samples."""
        facts = self._facts
        samples = (sample for sample in self.manifest.samples if sample.path in facts)
        parts = [part_of(sample, facts[sample.path]) for sample in samples]
        seconds = [end - start for start, end in parts]
        return (min(seconds), statistics.median(seconds), max(seconds)) if seconds else None

    @property
    def total_seconds(self) -> float:
        """Return the total duration of all videos in seconds."""
        return sum(video.duration_seconds for video in self.videos)

    @property
    def frame_sizes(self) -> dict[str, int]:
        """Return frame size as `WIDTHxHEIGHT` -> number of videos, most frequent first."""
        return _frequencies(f"{video.width}x{video.height}" for video in self.videos)

    @property
    def frame_rates(self) -> dict[str, int]:
        """Return frames per second -> number of videos, most frequent first."""
        return _frequencies(f"{round(video.fps, 2):g}" for video in self.videos)

    @property
    def codecs(self) -> dict[str, int]:
        """Return codec -> number of videos, most frequent first; folders of frames are `images`."""
        return _frequencies(video.stream.codec or "images" for video in self.videos)

    @property
    def few_val_videos(self) -> tuple[str, ...]:
        """Return classes with fewer than MIN_VAL_VIDEOS samples in `val`, or in a held-out fraction."""
        counts = self.class_counts
        held = counts.get("val") or [
            round(VAL_FRACTION * count) for count in counts.get("train") or counts.get(NO_SPLIT) or ()
        ]
        return tuple(
            name for name, count in zip(self.manifest.classes, held, strict=False) if count < MIN_VAL_VIDEOS
        )

    def clean(self) -> Manifest:
        """Return the samples usable for training: without unreadable files, empty parts and duplicates.

        One sample of each group of duplicates is kept: the first in `test`, else in `val`, else the first of
        all, so that scores stay comparable. If the labels contradict each other, none is kept. A part that
        ends after its video is cut at the end of the video. Samples with other warnings are kept, and so are
        parts of one video in different splits: to remove these leaks, split the data by whole videos.
        """
        facts = self._facts
        kept_of = ((group, self._kept(group)) for group in self.duplicates)
        dropped = {row for group, kept_row in kept_of for row in group.rows if row != kept_row}
        kept = []
        for row, sample in enumerate(self.manifest.samples):
            video = facts.get(sample.path)
            if video is None or row in dropped or is_empty_part(sample, video):
                continue
            kept.append(replace(sample, end_seconds=None) if ends_after_video(sample, video) else sample)
        return replace(self.manifest, samples=tuple(kept))

    @property
    def lasting_leaks(self) -> tuple[Group, ...]:
        """Return the leaks that remain after `clean`, as groups of its samples: parts of one video."""
        return tuple(find_leaks(self.clean(), self._facts))

    def to_text(self, written: str | None = None, model: str = "tiny-k400", root: str | None = None) -> str:
        """Return lines for a terminal: statistics, problems and warnings, and the commands to run next.

        Control characters are escaped, and long lists are truncated.

        Args:
            written: Path of the list of `clean` samples, if it was written.
            model: Initial weights of the suggested training.
            root: Folder that the paths of the list start from.
        """
        lines = [*self._summary_lines(), "", *self._class_count_lines()]
        for title, found in self._sections().items():
            if found:
                lines += ["", f"{title} ({len(found)})", *(f"  {line}" for line in truncate(found))]
        has_leaks = bool(self.lasting_leaks)
        steps = describe_next_steps(self.manifest, self.clean(), has_leaks, written, model, root)
        return "\n".join(map(printable, [*lines, "", *steps]))

    def _summary_lines(self) -> list[str]:
        """Return the number of samples, their total duration, sizes, frame rates and codecs."""
        counts = ((self.manifest.samples, "sample"), (self.manifest.classes, "class"), (self.videos, "video"))
        totals = ", ".join(plural(len(items), noun) for items, noun in counts)
        minutes = f"{self.total_seconds / 60:.1f} minutes"
        lines = [f"{self.manifest.source}  {totals} that can be read, {minutes}"]
        if self.durations:
            shortest, median, longest = self.durations
            lines.append(f"  seconds   {shortest:.1f} to {longest:.1f}, median {median:.1f}")
        statistics = (("sizes", self.frame_sizes), ("frames/s", self.frame_rates), ("codecs", self.codecs))
        for title, frequencies in statistics:
            if values := [f"{value} ({count})" for value, count in frequencies.items()]:
                lines.append(f"  {title:8}  {first_few(values, LINES_PER_LIST)}")
        note = describe_image_folders(self.num_image_folders, len(self.videos))
        return [*lines, f"  {note}"] if note else lines

    def _class_count_lines(self) -> list[str]:
        """Return the number of readable samples per class; of many classes, the largest and the smallest."""
        splits = list(self.class_counts)
        columns = zip(self.manifest.classes, *self.class_counts.values(), strict=True)
        rows = sorted(((sum(counts), name, counts) for name, *counts in columns), key=lambda row: -row[0])
        titles = splits if len(splits) > 1 else ["samples"]
        width = max(len(printable(name)) for name in (*self.manifest.classes, "class"))
        lines = [f"  {'class':{width}}" + "".join(f"  {title:>7}" for title in titles)]
        half = MAX_LISTED_CLASSES // 2
        for index, (total, name, counts) in enumerate(rows):
            if half <= index < len(rows) - half:
                lines += [f"  ({len(rows) - MAX_LISTED_CLASSES} in between)"] if index == half else []
                continue
            cells = "".join(f"  {count:{max(len(t), 7)}}" for t, count in zip(titles, counts, strict=True))
            lines.append(f"  {printable(name):{width}}{cells}  {draw_bar(total / max(rows[0][0], 1))}")
        return lines

    def _sections(self) -> dict[str, Sequence[str]]:
        """Return the titles of all problems and warnings, with their lines; none if nothing is found."""
        reported = {group.rows for group in (*self.contradictions, *self.leaks)}
        duplicates = [group for group in self.duplicates if group.rows not in reported]
        unreadable = [f"{self._relative_path(failure.path)}: {failure.reason}" for failure in self.unreadable]
        notes: dict[str, list[str]] = {}
        for note in self.notes:
            notes.setdefault(note.description, []).append(self._relative_path(note.path))
        missing = [
            f"{split}: {first_few(names, LINES_PER_LIST)}" for split, names in self.missing_classes.items()
        ]
        imbalance = []
        if self.class_imbalance and self.class_imbalance > MAX_IMBALANCE:
            ratio = f"the largest class has {self.class_imbalance:.0f} times the samples of the smallest"
            imbalance = [f"{ratio}: consider training with --set data.class_balanced=true"]
        few_val = f"fewer than {MIN_VAL_VIDEOS} validation videos, too few to measure an accuracy"
        loop = "shorter than a clip: fine-tuning shortens clips to fit most videos and loops the others"
        problems = {
            "cannot be read": unreadable,
            "labeled part outside of its video": self._lines(self.outside_video),
            "contradicting labels": self._group_lines(self.contradictions),
            "shared between splits": self._group_lines(self.leaks),
        }
        warnings = {
            "duplicates": self._group_lines(duplicates),
            "near duplicates, or the same scene": self._group_lines(self.near_duplicates),
            "damaged: the readable part is used": self._lines(self.damaged),
            loop: self._lines(self.too_short),
            "outliers": self._lines(self.outliers),
            **notes,
            "file properties that predict the class": self.predictive_properties,
            "classes without a sample": missing,
            "class imbalance": imbalance,
            few_val: self.few_val_videos,
        }
        sections = {f"problem: {title}": lines for title, lines in problems.items()}
        return sections | {f"warning: {title}": lines for title, lines in warnings.items()}

    def _lines(self, findings: Iterable[Finding]) -> list[str]:
        return [f"{self._relative_path(finding.path)}: {finding.description}" for finding in findings]

    def _group_lines(self, groups: Iterable[Group]) -> list[str]:
        """Return a line for each group: what its samples have in common, and their files."""
        lines = []
        for group in groups:
            names: dict[str, str] = {}
            for row in group.rows:
                name = self._relative_path(self.manifest.samples[row].path)
                first = next(iter(names), name)
                names[name] = f"{name} (a mirror image of {first})" if row in group.mirrored_rows else name
            lines.append(f"{group.description}: {first_few(list(names.values()), LINES_PER_LIST)}")
        return lines

    def _relative_path(self, path: str) -> str:
        """Return a path relative to the folder that was checked or that contains the list."""
        source = self.manifest.source
        folder = os.path.normpath(source if os.path.isdir(source) else os.path.dirname(source))
        return os.path.normpath(path).removeprefix(os.path.join(folder, ""))

    def to_json(self) -> str:
        """Return one line of JSON with all findings, the statistics, and the facts of every video."""
        splits = self.class_counts.items()
        classes = self.manifest.classes
        fields = {
            "source": self.manifest.source,
            "num_samples": len(self.manifest.samples),
            "num_videos": len(self.videos) + len(self.unreadable),
            "num_problems": self.num_problems,
            "unreadable": [asdict(failure) for failure in self.unreadable],
            "outside_video": _finding_fields(self.outside_video),
            "contradictions": self._groups(self.contradictions),
            "leaks": self._groups(self.leaks),
            "duplicates": self._groups(self.duplicates),
            "near_duplicates": self._groups(self.near_duplicates),
            "damaged": _finding_fields(self.damaged),
            "too_short": _finding_fields(self.too_short),
            "outliers": _finding_fields(self.outliers),
            "notes": _finding_fields(self.notes),
            "predictive_properties": self.predictive_properties,
            "single_class": self.single_class,
            "has_groups": self.has_groups,
            "num_image_folders": self.num_image_folders,
            "few_val_videos": self.few_val_videos,
            "class_counts": {split: dict(zip(classes, counts, strict=True)) for split, counts in splits},
            "missing_classes": self.missing_classes,
            "class_imbalance": self.class_imbalance,
            "durations": self.durations and dict(zip(_DURATIONS, self.durations, strict=True)),
            "total_seconds": self.total_seconds,
            "frame_sizes": self.frame_sizes,
            "frame_rates": self.frame_rates,
            "codecs": self.codecs,
            "videos": [_video_fields(video) for video in self.videos],
        }
        return dump_json(fields)

    @cached_property
    def _facts(self) -> dict[str, VideoFacts]:
        """Return path -> facts of every readable file."""
        return {video.path: video for video in self.videos}

    def _kept(self, group: Group) -> int | None:
        """Return the duplicate to keep; None if the labels contradict each other."""
        if group in self.contradictions:
            return None
        priority = {"test": 0, "val": 1}
        samples = self.manifest.samples
        return min(group.rows, key=lambda row: (priority.get(samples[row].split or "", 2), row))

    def _groups(self, groups: Iterable[Group]) -> list[dict[str, Any]]:
        return [self._group_fields(group) for group in groups]

    def _group_fields(self, group: Group) -> dict[str, Any]:
        samples = []
        for row in group.rows:
            fields = asdict(self.manifest.samples[row])
            fields["labels"] = [self.manifest.classes[label] for label in fields["labels"]]
            samples.append({name: value for name, value in fields.items() if value is not None})
        mirrored = [self.manifest.samples[row].path for row in group.mirrored_rows]
        fields = {"description": group.description, "samples": samples}
        return fields | ({"mirrored": mirrored} if mirrored else {})


def _frequencies(values: Iterable[str]) -> dict[str, int]:
    return dict(sorted(Counter(values).items(), key=lambda entry: (-entry[1], entry[0])))


def _finding_fields(findings: Iterable[Finding]) -> list[dict[str, Any]]:
    return [{name: value for name, value in asdict(f).items() if value is not None} for f in findings]


def _video_fields(video: VideoFacts) -> dict[str, Any]:
    fields = asdict(video) | {"duration_seconds": video.duration_seconds}
    fields |= fields.pop("stream")
    # Thumbnails are bytes, which JSON does not support.
    return {name: value for name, value in fields.items() if name != "thumbnails"}
