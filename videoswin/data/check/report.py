"""Report of the data checker: all facts, findings and statistics of labeled videos, as DataReport."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import Any, Final

from videoswin._errors import VideoError
from videoswin._text import dump_json, plural
from videoswin.data.check.advice import describe_single_class, training_samples
from videoswin.data.check.findings import (
    NO_SPLIT,
    Finding,
    Group,
    ends_after_video,
    find_contradictions,
    find_leaks,
    find_outside,
    find_possible_copies,
    find_repeats,
    find_telltale,
    find_too_short,
    find_unusual,
    is_empty_part,
    part_of,
    split_names,
    split_of,
)
from videoswin.data.check.fingerprint import VideoFacts
from videoswin.data.dataset import Failure
from videoswin.data.manifest import Manifest
from videoswin.video.spec import ClipSpec

HELD_OUT: Final = 0.2
"""Fraction of each class that fine-tuning holds out if the list has no splits."""
FEW_TO_VALIDATE: Final = 3
"""Number of validation videos below which the score of a class is not meaningful."""

_DURATIONS: Final = ("shortest", "median", "longest")


@dataclass(frozen=True, kw_only=True)
class DataReport:
    """Facts and findings about labeled videos, in the order of the manifest.

    Copies are videos whose decoded pixels are all equal, in any container. They are separate from possible
    copies, which are only visually similar: another encoding, size or frame rate of a video, or two videos of
    one place with almost no motion. Mirrored copies are found; copies that are cut, cropped, sped up or
    recolored are not.
    """

    manifest: Manifest
    """The checked manifest."""
    videos: tuple[VideoFacts, ...]
    """Facts of every file with at least one decodable frame, once per file."""
    unreadable: tuple[Failure, ...]
    """Files that are missing, empty, not a video, completely damaged, or crash the decoder."""
    outside: tuple[Finding, ...]
    """Labeled parts outside of their video."""
    contradictions: tuple[Group, ...]
    """Samples with the same frames and different labels."""
    leaks: tuple[Group, ...]
    """Samples with the same frames, parts of one video, or the same group in different splits."""
    repeats: tuple[Group, ...]
    """Samples with the same frames, including contradictions and leaks of whole videos."""
    possible_copies: tuple[Group, ...]
    """Samples of visually similar videos."""
    damaged: tuple[Finding, ...]
    """Files that can be read only in part."""
    too_short: tuple[Finding, ...]
    """Samples with too few frames."""
    odd: tuple[Finding, ...]
    """Videos with an unusual aspect ratio, frame rate, codec or rotation, or with a variable frame rate."""
    notes: tuple[Finding, ...]
    """Properties that are not damage but may reduce the accuracy of a model, such as HDR."""
    telltale: tuple[str, ...]
    """File properties that predict the class, one sentence each."""

    def __repr__(self) -> str:
        samples, videos = len(self.manifest.samples), len(self.videos)
        return (
            f"DataReport({self.manifest.source}, {plural(samples, 'sample')}, "
            f"{plural(videos, 'readable video')}, {plural(self.problems, 'problem')})"
        )

    @property
    def problems(self) -> int:
        """Return the number of unreadable files, parts outside of their video, contradictions and leaks.

        All other findings, including repeats within a split, are warnings that do not prevent training.
        """
        return sum(map(len, (self.unreadable, self.outside, self.contradictions, self.leaks)))

    @property
    def usable(self) -> bool:
        """Return whether there are no problems; warnings do not count."""
        return self.problems == 0

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
    def imbalance(self) -> float | None:
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
    def image_folders(self) -> int:
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
    def sizes(self) -> dict[str, int]:
        """Return frame size as `WIDTHxHEIGHT` -> number of videos, most frequent first."""
        return _frequencies(f"{video.width}x{video.height}" for video in self.videos)

    @property
    def rates(self) -> dict[str, int]:
        """Return frames per second -> number of videos, most frequent first."""
        return _frequencies(f"{round(video.fps, 2):g}" for video in self.videos)

    @property
    def codecs(self) -> dict[str, int]:
        """Return codec -> number of videos, most frequent first; folders of frames are `images`."""
        return _frequencies(video.stream.codec or "images" for video in self.videos)

    @property
    def hardly_validated(self) -> tuple[str, ...]:
        """Return classes with fewer than FEW_TO_VALIDATE samples in `val`, or in a held-out fraction."""
        counts = self.class_counts
        held = counts.get("val") or [
            round(HELD_OUT * count) for count in counts.get("train") or counts.get(NO_SPLIT) or ()
        ]
        return tuple(
            name for name, count in zip(self.manifest.classes, held, strict=False) if count < FEW_TO_VALIDATE
        )

    def clean(self) -> Manifest:
        """Return the samples usable for training: without unreadable files, empty parts and repeats.

        One sample of each group of repeats is kept: the first in `test`, else in `val`, else the first of
        all, so that scores stay comparable. If the labels contradict each other, none is kept. A part that
        ends after its video is cut at the end of the video. Samples with other warnings are kept, and so are
        parts of one video in different splits: to remove these leaks, split the data by whole videos.
        """
        facts = self._facts
        kept_of = ((repeat, self._kept(repeat)) for repeat in self.repeats)
        dropped = {row for repeat, kept_row in kept_of for row in repeat.rows if row != kept_row}
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

    def to_json(self) -> str:
        """Return one line of JSON with all findings, the statistics, and the facts of every video."""
        splits = self.class_counts.items()
        classes = self.manifest.classes
        fields = {
            "source": self.manifest.source,
            "num_samples": len(self.manifest.samples),
            "num_videos": len(self.videos) + len(self.unreadable),
            "problems": self.problems,
            "unreadable": [asdict(failure) for failure in self.unreadable],
            "outside": [_finding_fields(finding) for finding in self.outside],
            "contradictions": [self._group_fields(group) for group in self.contradictions],
            "leaks": [self._group_fields(group) for group in self.leaks],
            "repeats": [self._group_fields(group) for group in self.repeats],
            "possible_copies": [self._group_fields(group) for group in self.possible_copies],
            "damaged": [_finding_fields(finding) for finding in self.damaged],
            "too_short": [_finding_fields(finding) for finding in self.too_short],
            "odd": [_finding_fields(finding) for finding in self.odd],
            "notes": [_finding_fields(finding) for finding in self.notes],
            "telltale": self.telltale,
            "single_class": self.single_class,
            "has_groups": self.has_groups,
            "image_folders": self.image_folders,
            "hardly_validated": self.hardly_validated,
            "class_counts": {split: dict(zip(classes, counts, strict=True)) for split, counts in splits},
            "missing_classes": self.missing_classes,
            "imbalance": self.imbalance,
            "durations": self.durations and dict(zip(_DURATIONS, self.durations, strict=True)),
            "total_seconds": self.total_seconds,
            "sizes": self.sizes,
            "rates": self.rates,
            "codecs": self.codecs,
            "videos": [_video_fields(video) for video in self.videos],
        }
        return dump_json(fields)

    @cached_property
    def _facts(self) -> dict[str, VideoFacts]:
        """Return path -> facts of every readable file."""
        return {video.path: video for video in self.videos}

    def _kept(self, repeat: Group) -> int | None:
        """Return the repeated sample to keep; None if the labels contradict each other."""
        if repeat in self.contradictions:
            return None
        priority = {"test": 0, "val": 1}
        samples = self.manifest.samples
        return min(repeat.rows, key=lambda row: (priority.get(samples[row].split or "", 2), row))

    def _group_fields(self, group: Group) -> dict[str, Any]:
        samples = []
        for row in group.rows:
            fields = asdict(self.manifest.samples[row])
            fields["labels"] = [self.manifest.classes[label] for label in fields["labels"]]
            samples.append({name: value for name, value in fields.items() if value is not None})
        mirrored = [self.manifest.samples[row].path for row in group.mirrored_rows]
        return {"what": group.what, "samples": samples} | ({"mirrored": mirrored} if mirrored else {})


def make_report(
    manifest: Manifest,
    examined: Mapping[str, VideoFacts | VideoError],
    *,
    shortest_frames: int,
    clip: ClipSpec | None = None,
) -> DataReport:
    """Make the report of a manifest from the results of examining its files.

    Args:
        manifest: The checked manifest.
        examined: Path -> facts or error, for every file of the manifest.
        shortest_frames: Samples with fewer frames are too short.
        clip: Clip of the model; samples shorter than one clip are too short. Replaces `shortest_frames`.
    """
    facts: dict[str, VideoFacts] = {}
    unreadable = []
    for path in dict.fromkeys(sample.path for sample in manifest.samples):
        result = examined[path]
        if isinstance(result, VideoError):
            unreadable.append(Failure(path, result.reason))
        else:
            facts[path] = result
    videos = tuple(facts.values())
    repeats = find_repeats(manifest, facts)
    return DataReport(
        manifest=manifest,
        videos=videos,
        unreadable=tuple(unreadable),
        outside=tuple(find_outside(manifest, facts)),
        contradictions=tuple(find_contradictions(manifest, repeats)),
        leaks=tuple(find_leaks(manifest, facts)),
        repeats=tuple(repeats),
        possible_copies=tuple(find_possible_copies(manifest, facts)),
        damaged=tuple(Finding(path=video.path, what=video.damage) for video in videos if video.damage),
        too_short=tuple(find_too_short(manifest, facts, shortest_frames, clip)),
        odd=tuple(find_unusual(videos)),
        notes=tuple(Finding(path=video.path, what=note) for video in videos for note in video.notes),
        telltale=tuple(find_telltale(manifest, facts)),
    )


def _frequencies(values: Iterator[str]) -> dict[str, int]:
    return dict(sorted(Counter(values).items(), key=lambda entry: (-entry[1], entry[0])))


def _finding_fields(finding: Finding) -> dict[str, Any]:
    return {name: value for name, value in asdict(finding).items() if value is not None}


def _video_fields(video: VideoFacts) -> dict[str, Any]:
    fields = asdict(video) | {"duration_seconds": video.duration_seconds}
    fields |= fields.pop("stream")
    # Thumbnails are bytes, which JSON does not support.
    return {name: value for name, value in fields.items() if name != "thumbnails"}
