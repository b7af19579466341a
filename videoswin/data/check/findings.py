"""Find problems of labeled videos whose files have been examined: pure functions of a manifest."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final, TypeVar

import numpy as np

from videoswin._text import first_few, plural
from videoswin.data.fingerprint import VideoFacts, are_mirrored, find_similar_videos
from videoswin.data.manifest import Manifest, Sample
from videoswin.video.spec import ClipSpec

MIN_VIDEOS: Final = 20
"""Fewest videos for the search for predictive properties; with fewer, properties match classes by chance."""
MIN_GAIN: Final = 0.2
"""Least accuracy by which a property must exceed the most frequent class, as a fraction of the videos."""
NUM_PERMUTATIONS: Final = 100
"""Number of random permutations of the labels; a property must be more accurate with the true labels."""
NUM_LENGTH_BINS: Final = 4
"""Number of quantiles into which videos are divided by length."""


def find_predictive_properties(manifest: Manifest, facts: Mapping[str, VideoFacts]) -> list[str]:
    """Return a sentence for each file property that predicts the class far better than chance.

    Properties are the frame size, the frame rate, the codec and the length. The accuracy of a property is the
    fraction of videos that have the most frequent class among the videos with the same value.

    Args:
        manifest: Labeled videos; multi-label manifests are skipped.
        facts: Path -> facts of each readable file.
    """
    known = [sample for sample in manifest.samples if sample.path in facts and len(sample.labels) == 1]
    if len(known) < MIN_VIDEOS or manifest.multi_label:
        return []
    videos = [facts[sample.path] for sample in known]
    labels = [sample.labels[0] for sample in known]
    edges = np.linspace(0, 1, NUM_LENGTH_BINS + 1)[1:-1]
    quantiles = np.quantile([video.duration_seconds for video in videos], edges)
    properties: dict[str, list[Hashable]] = {
        "size": [(video.width, video.height) for video in videos],
        "frame rate": [round(video.fps, 1) for video in videos],
        "codec": [video.stream.codec for video in videos],
        "length": [int(np.searchsorted(quantiles, video.duration_seconds)) for video in videos],
    }
    baseline = max(Counter(labels).values()) / len(labels)
    rng = np.random.default_rng(0)  # a fixed seed, so that reports are reproducible
    shuffled = [rng.permutation(labels).tolist() for _ in range(NUM_PERMUTATIONS)]
    found = []
    for name, values in properties.items():
        accuracy = _accuracy_of_property(values, labels)
        by_chance = max(_accuracy_of_property(values, permuted) for permuted in shuffled)
        if accuracy >= baseline + MIN_GAIN and accuracy > by_chance:
            found.append(
                f"the {name} alone predicts the class of {accuracy:.0%} of the videos (the most frequent "
                f"class is {baseline:.0%}): a model may learn the {name} instead of the action"
            )
    return found


def _accuracy_of_property(values: Sequence[Hashable], labels: Sequence[int]) -> float:
    """Return the fraction of videos with the most frequent class among the videos of the same value."""
    classes_of: dict[Hashable, Counter[int]] = defaultdict(Counter)
    for value, label in zip(values, labels, strict=True):
        classes_of[value][label] += 1
    return sum(max(counts.values()) for counts in classes_of.values()) / len(labels)


NO_SPLIT: Final = "unassigned"
"""Name of the split of samples without a split."""

PART_TOLERANCE_SECONDS: Final = 0.5
"""Seconds by which a labeled part may end after the video, because times in lists are rounded."""

ASPECT_TOLERANCE: Final = 0.02
"""Relative difference from the most frequent aspect ratio (width / height) up to which a video is usual."""
RATE_TOLERANCE: Final = 0.02
"""Relative difference from the most frequent frame rate up to which a video is usual."""

Value = TypeVar("Value", bound=Hashable)

Facts = Mapping[str, VideoFacts]
"""Path -> facts of the file, for every readable file."""


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One observation on a video or a labeled part of it."""

    path: str
    """Video file or folder of frames."""
    description: str
    """The observation, as a phrase."""
    start_seconds: float | None = None
    """Start of the labeled part in seconds; None means the start of the video."""
    end_seconds: float | None = None
    """End of the labeled part in seconds; None means the end of the video."""


@dataclass(frozen=True, kw_only=True)
class Group:
    """Samples that are related to each other."""

    rows: tuple[int, ...]
    """Two or more indices into the samples of the manifest, increasing."""
    description: str
    """What the samples have in common, and the splits or classes in which they differ."""
    mirrored_rows: tuple[int, ...] = ()
    """Those of `rows` whose video is similar to the mirror image of the first one."""


def split_of(sample: Sample) -> str:
    """Return the split of a sample, or NO_SPLIT."""
    return sample.split or NO_SPLIT


def split_names(samples: Iterable[Sample]) -> list[str]:
    """Return the splits of the samples: train, val, test, then others by name, NO_SPLIT last."""
    usual = ("train", "val", "test")
    names = {sample.split for sample in samples}
    others = sorted(name for name in names if name is not None and name not in usual)
    return [name for name in usual if name in names] + others + ([NO_SPLIT] if None in names else [])


def part_of(sample: Sample, video: VideoFacts) -> tuple[float, float]:
    """Return (start, end) of the labeled part in seconds, limited to the video."""
    end = video.duration_seconds if sample.end_seconds is None else sample.end_seconds
    end = min(max(end, 0.0), video.duration_seconds)
    return min(max(sample.start_seconds or 0.0, 0.0), end), end


def is_empty_part(sample: Sample, video: VideoFacts) -> bool:
    """Return whether the labeled part begins after the end of the video, or has no length."""
    start, end = part_of(sample, video)
    return start >= end


def ends_after_video(sample: Sample, video: VideoFacts) -> bool:
    """Return whether the labeled part ends after the video, by more than PART_TOLERANCE_SECONDS."""
    end = sample.end_seconds
    return end is not None and end > video.duration_seconds + PART_TOLERANCE_SECONDS


def find_parts_outside(manifest: Manifest, facts: Facts) -> list[Finding]:
    """Find labeled parts that are entirely or partly outside of their videos, or have no length."""
    findings = []
    for sample in manifest.samples:
        video = facts.get(sample.path)
        if video is None:
            continue
        duration = f"the video lasts {video.duration_seconds:.1f} s"
        if is_empty_part(sample, video):
            start, end = sample.start_seconds or 0.0, sample.end_seconds
            until = f" and ends at {end:.1f} s" if end is not None else ""
            findings.append(_make_finding(sample, f"the part begins at {start:.1f} s{until}, {duration}"))
        elif ends_after_video(sample, video):
            findings.append(_make_finding(sample, f"the part ends at {sample.end_seconds:.1f} s, {duration}"))
    return findings


def find_too_short(manifest: Manifest, facts: Facts, min_frames: int, clip: ClipSpec | None) -> list[Finding]:
    """Find nonempty samples that are too short.

    Args:
        manifest: Labeled videos.
        facts: Path -> facts of each readable file.
        min_frames: Samples with fewer frames are too short; ignored if there is a `clip`.
        clip: Clip of the model; samples shorter than it are too short.
    """
    findings = []
    for sample in manifest.samples:
        video = facts.get(sample.path)
        if video is None or is_empty_part(sample, video):
            continue
        start, end = part_of(sample, video)
        frames = round((end - start) * video.num_frames / video.duration_seconds)
        if clip is None:
            if frames < min_frames:
                findings.append(_make_finding(sample, f"{plural(frames, 'frame')}, fewer than {min_frames}"))
        elif frames < round((covered := clip.seconds(video.fps) or 0) * video.fps):
            findings.append(
                _make_finding(sample, f"{end - start:.1f} s, shorter than a clip of {covered:.1f} s")
            )
    return findings


def find_outliers(videos: Sequence[VideoFacts]) -> list[Finding]:
    """Find videos whose aspect ratio, frame rate, codec or rotation is unusual, or whose rate is variable.

    Usual is the value of more than half of the videos; a property without such a value is ignored.
    """
    rotation = _majority([video.stream.rotation for video in videos])
    codec = _majority([video.stream.codec for video in videos])
    aspect = _majority([round(video.width / video.height, 2) for video in videos])
    rate = _majority([round(video.fps, 2) for video in videos])
    findings = []
    for video in videos:
        reasons = []
        if aspect and abs(video.width / video.height / aspect - 1) > ASPECT_TOLERANCE:
            reasons.append(f"{video.width}x{video.height}, most are {aspect:g}:1")
        if rate and abs(video.fps / rate - 1) > RATE_TOLERANCE:
            reasons.append(f"{video.fps:g} frames/s, most have {rate:g}")
        if video.stream.variable_rate:
            reasons.append("variable frame rate")
        if rotation is not None and video.stream.rotation != rotation:
            reasons.append(f"rotated by {video.stream.rotation} degrees on playback, most by {rotation:g}")
        if video.stream.mirrored:
            reasons.append("mirrored on playback")
        if codec is not None and video.stream.codec != codec:
            reasons.append(f"codec {video.stream.codec or 'images'}, most are {codec}")
        if reasons:
            findings.append(Finding(path=video.path, description="; ".join(reasons)))
    return findings


def find_duplicates(manifest: Manifest, facts: Facts) -> list[Group]:
    """Find samples with the same part of the same frames, pixel for pixel."""
    groups = []
    for rows in _rows_by_frames(manifest, facts).values():
        by_part = defaultdict(list)
        for row in rows:
            sample = manifest.samples[row]
            start, end = part_of(sample, facts[sample.path])
            by_part[round(start, 2), round(end, 2)].append(row)
        for same in by_part.values():
            if len(same) > 1:
                groups.append(_make_group(manifest, same, _describe_copies(manifest, facts, same)))
    return sorted(groups, key=lambda group: group.rows)


def find_contradictions(manifest: Manifest, duplicates: Iterable[Group]) -> list[Group]:
    """Find the duplicates with different labels."""
    samples = manifest.samples
    return [group for group in duplicates if len({frozenset(samples[row].labels) for row in group.rows}) > 1]


def find_leaks(manifest: Manifest, facts: Facts) -> list[Group]:
    """Find samples of different splits with the same frames, parts of one video, or the same group.

    Samples without a split are ignored.
    """
    groups = _groups_in_several_splits(manifest)
    for rows in _rows_by_frames(manifest, facts).values():
        in_splits = [row for row in rows if manifest.samples[row].split is not None]
        if len({manifest.samples[row].split for row in in_splits}) > 1:
            groups.append(_make_group(manifest, in_splits, _describe_leak(manifest, facts, in_splits)))
    return sorted(groups, key=lambda group: group.rows)


def _groups_in_several_splits(manifest: Manifest) -> list[Group]:
    rows_of = defaultdict(list)
    for row, sample in enumerate(manifest.samples):
        if sample.group is not None and sample.split is not None:
            rows_of[sample.group].append(row)
    groups = []
    for name, rows in rows_of.items():
        if len(splits := split_names(manifest.samples[row] for row in rows)) > 1:
            description = f"the group {name!r}, in {first_few(splits, last=' and ')}"
            groups.append(Group(rows=tuple(rows), description=description))
    return groups


def find_near_duplicates(manifest: Manifest, facts: Facts) -> list[Group]:
    """Find samples of videos that look similar without identical frames, for visual inspection."""
    sets_of_rows = list(_rows_by_frames(manifest, facts).values())
    videos = [facts[manifest.samples[rows[0]].path] for rows in sets_of_rows]
    groups = []
    for similar in find_similar_videos(videos):
        rows = sorted(row for index in similar for row in sets_of_rows[index])
        by_row = {row: videos[index] for index in similar for row in sets_of_rows[index]}
        mirrored = tuple(row for row in rows if are_mirrored(by_row[rows[0]], by_row[row]))
        group = _make_group(manifest, rows, "visually similar" + ", mirrored" * bool(mirrored))
        groups.append(replace(group, mirrored_rows=mirrored))
    return sorted(groups, key=lambda group: group.rows)


def _make_finding(sample: Sample, description: str) -> Finding:
    return Finding(
        path=sample.path,
        description=description,
        start_seconds=sample.start_seconds,
        end_seconds=sample.end_seconds,
    )


def _majority(values: Sequence[Value]) -> Value | None:
    """Return the value of more than half of the entries; None if there is no such value."""
    if not values:
        return None
    value, count = Counter(values).most_common(1)[0]
    return value if 2 * count > len(values) else None


def _rows_by_frames(manifest: Manifest, facts: Facts) -> dict[str, list[int]]:
    """Map the digest of the frames to the samples with these frames and a nonempty part."""
    rows_of = defaultdict(list)
    for row, sample in enumerate(manifest.samples):
        video = facts.get(sample.path)
        if video is not None and not is_empty_part(sample, video):
            rows_of[video.pictures_digest].append(row)
    return dict(rows_of)


def _describe_copies(manifest: Manifest, facts: Facts, rows: Sequence[int]) -> str:
    paths = {manifest.samples[row].path for row in rows}
    if len(paths) == 1:
        return "one file listed more than once"
    digests = {facts[path].bytes_digest for path in paths}
    return "the same bytes" if len(digests) == 1 and None not in digests else "the same frames"


def _describe_leak(manifest: Manifest, facts: Facts, rows: Sequence[int]) -> str:
    """Return what samples of one video in several splits have in common."""
    if _overlap(manifest, facts, rows):
        samples = [manifest.samples[row] for row in rows]
        whole = all(sample.start_seconds is None and sample.end_seconds is None for sample in samples)
        return _describe_copies(manifest, facts, rows) if whole else "overlapping parts of one video"
    return "parts of one video"


def _overlap(manifest: Manifest, facts: Facts, rows: Sequence[int]) -> bool:
    """Return whether two samples of different splits overlap in time."""
    parts = sorted(
        (*part_of(manifest.samples[row], facts[manifest.samples[row].path]), split_of(manifest.samples[row]))
        for row in rows
    )
    latest_end: dict[str, float] = {}
    for start, end, split in parts:
        if any(start < other_end for other, other_end in latest_end.items() if other != split):
            return True
        latest_end[split] = max(end, latest_end.get(split, end))
    return False


def _make_group(manifest: Manifest, rows: Sequence[int], common: str) -> Group:
    """Return a group whose description includes its splits and classes where they differ."""
    samples = [manifest.samples[row] for row in rows]
    description = common
    if len(splits := split_names(samples)) > 1:
        description += f", in {first_few(splits, last=' and ')}"
    if len({frozenset(sample.labels) for sample in samples}) > 1:
        labels = dict.fromkeys(label for sample in samples for label in sample.labels)
        description += f", labeled {first_few([manifest.classes[label] for label in labels], last=' and ')}"
    return Group(rows=tuple(rows), description=description)
