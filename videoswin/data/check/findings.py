"""What can be wrong with labeled videos whose files have been examined: pure functions over a manifest."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final, TypeVar

import numpy as np

from videoswin._text import plural
from videoswin.data.check.fingerprint import VideoFacts, are_mirrored, find_look_alikes
from videoswin.data.manifest import Manifest, Sample
from videoswin.video.spec import ClipSpec

FEWEST_VIDEOS: Final = 20
"""Of fewer videos nothing is said: chance alone makes properties and classes agree."""
GAIN: Final = 0.2
"""Fraction of the videos by which a property must name the class better than the most frequent class does."""
SHUFFLES: Final = 100
"""Random assignments of labels that a property must beat, all of them."""
LENGTHS: Final = 4
"""Equal parts into which videos are divided by length."""


def find_telltale(manifest: Manifest, facts: Mapping[str, VideoFacts]) -> list[str]:
    """Return a sentence for each property that tells classes apart far better than chance.

    Properties are the size, the frame rate, the codec and the length of the file. Each is asked how many of
    the videos would be classified correctly by the most frequent class among those with the same value.
    """
    known = [sample for sample in manifest.samples if sample.path in facts and len(sample.labels) == 1]
    if len(known) < FEWEST_VIDEOS or manifest.multi_label:
        return []
    videos = [facts[sample.path] for sample in known]
    labels = [sample.labels[0] for sample in known]
    quarters = np.quantile([video.duration_seconds for video in videos], np.linspace(0, 1, LENGTHS + 1)[1:-1])
    properties: dict[str, list[Hashable]] = {
        "size": [(video.width, video.height) for video in videos],
        "frame rate": [round(video.fps, 1) for video in videos],
        "codec": [video.stream.codec for video in videos],
        "length": [int(np.searchsorted(quarters, video.duration_seconds)) for video in videos],
    }
    plain = max(Counter(labels).values()) / len(labels)
    rng = np.random.default_rng(0)  # the same report every time
    shuffled = [rng.permutation(labels).tolist() for _ in range(SHUFFLES)]
    found = []
    for name, values in properties.items():
        named = _named_by(values, labels)
        by_chance = max(_named_by(values, mixed) for mixed in shuffled)
        if named >= plain + GAIN and named > by_chance:
            found.append(
                f"the {name} alone names the class of {named:.0%} of the videos (the most frequent class is "
                f"{plain:.0%}): a model may learn the {name} instead of the action"
            )
    return found


def _named_by(values: Sequence[Hashable], labels: Sequence[int]) -> float:
    """Fraction of the videos that have the most frequent class among those of the same value."""
    classes_of: dict[Hashable, Counter[int]] = defaultdict(Counter)
    for value, label in zip(values, labels, strict=True):
        classes_of[value][label] += 1
    return sum(max(counts.values()) for counts in classes_of.values()) / len(labels)


NO_SPLIT: Final = "unassigned"
"""What samples are counted under that name no split."""

PART_TOLERANCE_SECONDS: Final = 0.5
"""A labeled part may end this much after the video: lists round."""

ASPECT_TOLERANCE: Final = 0.02
RATE_TOLERANCE: Final = 0.02
"""Part by which a video's width / height, and its frame rate, may differ from the usual."""

Value = TypeVar("Value", bound=Hashable)

Facts = Mapping[str, VideoFacts]
"""Path -> what its file holds, for every file that can be read."""


@dataclass(frozen=True, kw_only=True)
class Finding:
    """Something about a video or a labeled part of it."""

    path: str
    what: str
    start_seconds: float | None = None
    end_seconds: float | None = None


@dataclass(frozen=True, kw_only=True)
class Group:
    """Samples that have something to do with each other."""

    rows: tuple[int, ...]
    """Two or more indices into the manifest's samples, growing."""
    what: str
    """What they have in common, and the splits or classes that tell them apart."""
    mirrored_rows: tuple[int, ...] = ()
    """Those of `rows` whose video is like the mirror image of the first one's."""


def split_of(sample: Sample) -> str:
    """The split's name, or NO_SPLIT."""
    return sample.split or NO_SPLIT


def split_names(samples: Iterable[Sample]) -> list[str]:
    """The splits that samples name: train, val, test, then others by name, NO_SPLIT last."""
    usual = ("train", "val", "test")
    names = {sample.split for sample in samples}
    others = sorted(name for name in names if name is not None and name not in usual)
    return [name for name in usual if name in names] + others + ([NO_SPLIT] if None in names else [])


def part_of(sample: Sample, video: VideoFacts) -> tuple[float, float]:
    """(start, end) in seconds of what the sample shows of its video; never outside of the video."""
    end = video.duration_seconds if sample.end_seconds is None else sample.end_seconds
    end = min(max(end, 0.0), video.duration_seconds)
    return min(max(sample.start_seconds or 0.0, 0.0), end), end


def shows_nothing(sample: Sample, video: VideoFacts) -> bool:
    """Whether its labeled part begins after the video's end, or has no length."""
    start, end = part_of(sample, video)
    return start >= end


def reaches_past_end(sample: Sample, video: VideoFacts) -> bool:
    """Whether its labeled part ends after the video, by more than lists round."""
    end = sample.end_seconds
    return end is not None and end > video.duration_seconds + PART_TOLERANCE_SECONDS


def find_outside(manifest: Manifest, facts: Facts) -> list[Finding]:
    """Labeled parts that lie outside of their videos, wholly or at their ends, or have no length."""
    findings = []
    for sample in manifest.samples:
        video = facts.get(sample.path)
        if video is None:
            continue
        lasts = f"the video lasts {video.duration_seconds:.1f} s"
        if shows_nothing(sample, video):
            start, end = sample.start_seconds or 0.0, sample.end_seconds
            until = f" and ends at {end:.1f} s" if end is not None else ""
            findings.append(_about(sample, f"the part begins at {start:.1f} s{until}, {lasts}"))
        elif reaches_past_end(sample, video):
            findings.append(_about(sample, f"the part ends at {sample.end_seconds:.1f} s, {lasts}"))
    return findings


def find_too_short(
    manifest: Manifest, facts: Facts, shortest_frames: int, clip: ClipSpec | None
) -> list[Finding]:
    """Samples that show fewer than `shortest_frames` frames, or less than a clip covers, but some."""
    findings = []
    for sample in manifest.samples:
        video = facts.get(sample.path)
        if video is None or shows_nothing(sample, video):
            continue
        start, end = part_of(sample, video)
        frames = round((end - start) * video.num_frames / video.duration_seconds)
        if clip is None:
            if frames < shortest_frames:
                findings.append(_about(sample, f"{plural(frames, 'frame')}, fewer than {shortest_frames}"))
        elif frames < round((covered := clip.seconds(video.fps) or 0) * video.fps):
            findings.append(_about(sample, f"{end - start:.1f} s, the model looks at {covered:.1f} s"))
    return findings


def find_odd(videos: Sequence[VideoFacts]) -> list[Finding]:
    """Videos whose aspect, rate, codec or rotation is not that of most, or whose rate varies.

    A property in which no more than half of the videos agree is left out.
    """
    turn = _usual([video.stream.rotation for video in videos])
    codec = _usual([video.stream.codec for video in videos])
    aspect = _usual([round(video.width / video.height, 2) for video in videos])
    rate = _usual([round(video.fps, 2) for video in videos])
    findings = []
    for video in videos:
        reasons = []
        if aspect and abs(video.width / video.height / aspect - 1) > ASPECT_TOLERANCE:
            reasons.append(f"{video.width}x{video.height}, most are {aspect:g}:1")
        if rate and abs(video.fps / rate - 1) > RATE_TOLERANCE:
            reasons.append(f"{video.fps:g} frames a second, most have {rate:g}")
        if video.stream.variable_rate:
            reasons.append("its frame rate varies")
        if turn is not None and video.stream.rotation != turn:
            reasons.append(f"turned by {video.stream.rotation} degrees in playing, most by {turn:g}")
        if video.stream.mirrored:
            reasons.append("mirrored in playing")
        if codec is not None and video.stream.codec != codec:
            reasons.append(f"codec {video.stream.codec or 'images'}, most are {codec}")
        if reasons:
            findings.append(Finding(path=video.path, what="; ".join(reasons)))
    return findings


def find_repeats(manifest: Manifest, facts: Facts) -> list[Group]:
    """Samples that show the same part of the same pictures, frame for frame."""
    groups = []
    for rows in _rows_by_pictures(manifest, facts).values():
        by_part = defaultdict(list)
        for row in rows:
            sample = manifest.samples[row]
            start, end = part_of(sample, facts[sample.path])
            by_part[round(start, 2), round(end, 2)].append(row)
        for same in by_part.values():
            if len(same) > 1:
                groups.append(_group(manifest, same, _common_ground(manifest, facts, same)))
    return sorted(groups, key=lambda group: group.rows)


def find_contradictions(manifest: Manifest, repeats: Iterable[Group]) -> list[Group]:
    """Those of the repeats that carry different labels."""
    samples = manifest.samples
    return [repeat for repeat in repeats if len({frozenset(samples[row].labels) for row in repeat.rows}) > 1]


def find_leaks(manifest: Manifest, facts: Facts) -> list[Group]:
    """Samples of different splits that show the same pictures, parts of one video, or one named group.

    Samples without a split leak nowhere.
    """
    groups = _groups_in_several_splits(manifest)
    for rows in _rows_by_pictures(manifest, facts).values():
        in_splits = [row for row in rows if manifest.samples[row].split is not None]
        if len({manifest.samples[row].split for row in in_splits}) > 1:
            groups.append(_group(manifest, in_splits, _leak_kind(manifest, facts, in_splits)))
    return sorted(groups, key=lambda group: group.rows)


def _groups_in_several_splits(manifest: Manifest) -> list[Group]:
    rows_of = defaultdict(list)
    for row, sample in enumerate(manifest.samples):
        if sample.group is not None and sample.split is not None:
            rows_of[sample.group].append(row)
    groups = []
    for name, rows in rows_of.items():
        if len(splits := split_names(manifest.samples[row] for row in rows)) > 1:
            groups.append(Group(rows=tuple(rows), what=f"the group {name!r}, in {_listed(splits)}"))
    return groups


def find_possible_copies(manifest: Manifest, facts: Facts) -> list[Group]:
    """Samples of videos that are not the same frame for frame but look alike: to be judged by eye."""
    sets_of_rows = list(_rows_by_pictures(manifest, facts).values())
    videos = [facts[manifest.samples[rows[0]].path] for rows in sets_of_rows]
    groups = []
    for alike in find_look_alikes(videos):
        rows = sorted(row for index in alike for row in sets_of_rows[index])
        by_row = {row: videos[index] for index in alike for row in sets_of_rows[index]}
        mirrored = tuple(row for row in rows if are_mirrored(by_row[rows[0]], by_row[row]))
        group = _group(manifest, rows, "alike to the eye" + ", mirrored" * bool(mirrored))
        groups.append(replace(group, mirrored_rows=mirrored))
    return sorted(groups, key=lambda group: group.rows)


def _about(sample: Sample, what: str) -> Finding:
    return Finding(
        path=sample.path, what=what, start_seconds=sample.start_seconds, end_seconds=sample.end_seconds
    )


def _usual(values: Sequence[Value]) -> Value | None:
    """The value that more than half have."""
    if not values:
        return None
    value, count = Counter(values).most_common(1)[0]
    return value if 2 * count > len(values) else None


def _rows_by_pictures(manifest: Manifest, facts: Facts) -> dict[str, list[int]]:
    """Pictures' digest -> the samples whose video that is and that show some of it."""
    rows_of = defaultdict(list)
    for row, sample in enumerate(manifest.samples):
        video = facts.get(sample.path)
        if video is not None and not shows_nothing(sample, video):
            rows_of[video.pictures_digest].append(row)
    return dict(rows_of)


def _common_ground(manifest: Manifest, facts: Facts, rows: Sequence[int]) -> str:
    paths = {manifest.samples[row].path for row in rows}
    if len(paths) == 1:
        return "one file listed more than once"
    digests = {facts[path].bytes_digest for path in paths}
    return "the same bytes" if len(digests) == 1 and None not in digests else "the same pictures"


def _leak_kind(manifest: Manifest, facts: Facts, rows: Sequence[int]) -> str:
    """What samples of one video in several splits have in common."""
    if _overlap(manifest, facts, rows):
        samples = [manifest.samples[row] for row in rows]
        whole = all(sample.start_seconds is None and sample.end_seconds is None for sample in samples)
        return _common_ground(manifest, facts, rows) if whole else "overlapping parts of one video"
    return "parts of one video"


def _overlap(manifest: Manifest, facts: Facts, rows: Sequence[int]) -> bool:
    """Whether two samples of different splits show the same moment."""
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


def _group(manifest: Manifest, rows: Sequence[int], common: str) -> Group:
    """A group whose words name its splits and classes where they differ."""
    samples = [manifest.samples[row] for row in rows]
    what = common
    if len(splits := split_names(samples)) > 1:
        what += f", in {_listed(splits)}"
    if len({frozenset(sample.labels) for sample in samples}) > 1:
        labels = dict.fromkeys(label for sample in samples for label in sample.labels)
        what += f", called {_listed([manifest.classes[label] for label in labels])}"
    return Group(rows=tuple(rows), what=what)


def _listed(names: Sequence[str]) -> str:
    """`a`, `a and b`, `a, b and c`, `a, b, c and 5 more`."""
    shown = [*names] if len(names) <= 3 else [*names[:3], f"{len(names) - 3} more"]
    return " and ".join(filter(None, (", ".join(shown[:-1]), shown[-1])))
