"""Properties of video files that give the class away: a model may learn them instead of what happens."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Hashable, Mapping, Sequence
from typing import Final

import numpy as np

from videoswin.data.checks.fingerprint import VideoFacts
from videoswin.data.manifest import Manifest

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
