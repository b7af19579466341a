"""What is known about a collection of labeled videos, and what follows from it: DataReport."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import Any, Final

from videoswin._text import dump_json, plural
from videoswin.data.check.advice import describe_single_class, training_samples
from videoswin.data.check.findings import (
    NO_SPLIT,
    Finding,
    Group,
    find_contradictions,
    find_leaks,
    find_odd,
    find_outside,
    find_possible_copies,
    find_repeats,
    find_telltale,
    find_too_short,
    part_of,
    reaches_past_end,
    shows_nothing,
    split_names,
    split_of,
)
from videoswin.data.check.fingerprint import VideoFacts
from videoswin.data.dataset import Failure
from videoswin.data.manifest import Manifest
from videoswin.video.reader import VideoError
from videoswin.video.spec import ClipSpec

HELD_OUT: Final = 0.2
"""Fraction of each class that fine-tuning holds out if there is no split."""
FEW_TO_VALIDATE: Final = 3
"""Validation videos below which the score of a class says next to nothing."""

_DURATIONS: Final = ("shortest", "median", "longest")


@dataclass(frozen=True, kw_only=True)
class DataReport:
    """What is known about labeled videos. Everything is in the manifest's order.

    Copies are found where every decoded pixel is the same, whatever the container, and told apart from those
    that only look alike: another encoding, size or frame rate of a film, or two films of one place in which
    next to nothing happens. Mirrored copies are found, those that are cut, cropped, sped up or recolored not.
    """

    manifest: Manifest
    videos: tuple[VideoFacts, ...]
    """Every file of which something can be decoded, once."""
    unreadable: tuple[Failure, ...]
    """Files that are missing, empty, no video, or broken altogether; and those that crash the decoder."""
    outside: tuple[Finding, ...]
    """Labeled parts outside of their video."""
    contradictions: tuple[Group, ...]
    """The same pictures under different labels."""
    leaks: tuple[Group, ...]
    """The same pictures, parts of one video, or one named group, in different splits."""
    repeats: tuple[Group, ...]
    """The same pictures more than once; contradictions and leaks of whole videos are among them."""
    possible_copies: tuple[Group, ...]
    """Videos that look alike."""
    damaged: tuple[Finding, ...]
    """Files that can be used in part."""
    too_short: tuple[Finding, ...]
    """Samples with fewer frames than was asked for."""
    odd: tuple[Finding, ...]
    """Videos whose aspect, frame rate, codec or rotation is not that of most, or whose rate varies."""
    notes: tuple[Finding, ...]
    """What is no damage but may make a model's answers worse, such as HDR."""
    telltale: tuple[str, ...]
    """Properties of the files that give the class away, a sentence each."""

    def __repr__(self) -> str:
        samples, videos = len(self.manifest.samples), len(self.videos)
        return (
            f"DataReport({self.manifest.source}, {plural(samples, 'sample')}, {plural(videos, 'video')} that "
            f"can be read, {plural(self.problems, 'problem')})"
        )

    @property
    def problems(self) -> int:
        """How many unreadable files, parts outside, contradictions and leaks there are.

        The rest are warnings, repeats within a split too: one can train in spite of them.
        """
        return sum(map(len, (self.unreadable, self.outside, self.contradictions, self.leaks)))

    @property
    def usable(self) -> bool:
        """Whether there are no problems, warnings aside."""
        return self.problems == 0

    @property
    def class_counts(self) -> dict[str, tuple[int, ...]]:
        """Split -> how many samples of each class can be read, in the order of `manifest.classes`."""
        facts = self._facts
        counts = {split: [0] * len(self.manifest.classes) for split in split_names(self.manifest.samples)}
        for sample in self.manifest.samples:
            if sample.path in facts and not shows_nothing(sample, facts[sample.path]):
                for label in sample.labels:
                    counts[split_of(sample)][label] += 1
        return {split: tuple(of_classes) for split, of_classes in counts.items()}

    @property
    def missing_classes(self) -> dict[str, tuple[str, ...]]:
        """Split -> its classes without a readable sample; splits that have all are left out."""
        missing = {
            split: tuple(name for name, count in zip(self.manifest.classes, counts, strict=True) if not count)
            for split, counts in self.class_counts.items()
        }
        return {split: names for split, names in missing.items() if names}

    @property
    def imbalance(self) -> float | None:
        """Samples of the largest class per sample of the smallest that has any, in the first split."""
        counts = [count for count in next(iter(self.class_counts.values()), ()) if count]
        return max(counts) / min(counts) if counts else None

    @property
    def single_class(self) -> str | None:
        """A sentence about training samples that are all of one class; None if there are more classes."""
        clean = self.clean()
        return describe_single_class(clean, training_samples(clean))

    @property
    def has_groups(self) -> bool:
        """Whether the list says what samples share that must not be split."""
        return any(sample.group is not None for sample in self.manifest.samples)

    @property
    def image_folders(self) -> int:
        """How many videos are folders of images, whose frame rate is not known."""
        return sum(video.stream.codec is None and video.bytes_digest is None for video in self.videos)

    @property
    def durations(self) -> tuple[float, float, float] | None:
        """Shortest, median and longest sample in seconds: of its labeled part, else of the video."""
        facts = self._facts
        samples = (sample for sample in self.manifest.samples if sample.path in facts)
        parts = [part_of(sample, facts[sample.path]) for sample in samples]
        seconds = [end - start for start, end in parts]
        return (min(seconds), statistics.median(seconds), max(seconds)) if seconds else None

    @property
    def total_seconds(self) -> float:
        """How long all videos last."""
        return sum(video.duration_seconds for video in self.videos)

    @property
    def sizes(self) -> dict[str, int]:
        """Width x height of the frames -> number of videos, most frequent first."""
        return _frequencies(f"{video.width}x{video.height}" for video in self.videos)

    @property
    def rates(self) -> dict[str, int]:
        """Frames a second -> number of videos, most frequent first."""
        return _frequencies(f"{round(video.fps, 2):g}" for video in self.videos)

    @property
    def codecs(self) -> dict[str, int]:
        """Codec -> number of videos, most frequent first; folders of frames are `images`."""
        return _frequencies(video.stream.codec or "images" for video in self.videos)

    @property
    def hardly_validated(self) -> tuple[str, ...]:
        """Classes with fewer than FEW_TO_VALIDATE samples in `val`, or in what would be held out."""
        counts = self.class_counts
        held = counts.get("val") or [
            round(HELD_OUT * count) for count in counts.get("train") or counts.get(NO_SPLIT) or ()
        ]
        return tuple(
            name for name, count in zip(self.manifest.classes, held, strict=False) if count < FEW_TO_VALIDATE
        )

    def clean(self) -> Manifest:
        """The samples that can be learned from: no unreadable files, no parts that show nothing, no repeats.

        Of samples that repeat each other one stays: the first in `test`, else in `val`, else of all, so that
        scores keep their meaning. If their labels contradict each other none stays. A part that ends after
        its video is cut there. Other warnings stay, and so do parts of one video in different splits: the
        cure for these is to split anew, whole videos at a time.
        """
        facts = self._facts
        kept_of = ((repeat, self._kept(repeat)) for repeat in self.repeats)
        dropped = {row for repeat, kept_row in kept_of for row in repeat.rows if row != kept_row}
        kept = []
        for row, sample in enumerate(self.manifest.samples):
            video = facts.get(sample.path)
            if video is None or row in dropped or shows_nothing(sample, video):
                continue
            kept.append(replace(sample, end_seconds=None) if reaches_past_end(sample, video) else sample)
        return replace(self.manifest, samples=tuple(kept))

    @property
    def lasting_leaks(self) -> tuple[Group, ...]:
        """Leaks that `clean` leaves, as groups of its samples: parts of one video in different splits."""
        return tuple(find_leaks(self.clean(), self._facts))

    def to_json(self) -> str:
        """One line with every list in full, the counts, and the facts about every video."""
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
        """By path."""
        return {video.path: video for video in self.videos}

    def _kept(self, repeat: Group) -> int | None:
        """The one of the repeated samples that is worth most; None if their labels contradict each other."""
        if repeat in self.contradictions:
            return None
        worth = {"test": 0, "val": 1}
        samples = self.manifest.samples
        return min(repeat.rows, key=lambda row: (worth.get(samples[row].split or "", 2), row))

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
    """What follows from the facts about every file of the manifest, by path."""
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
        odd=tuple(find_odd(videos)),
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
    # The look is no text; the rest of it is for programs as it is.
    return {name: value for name, value in fields.items() if name != "look"}
