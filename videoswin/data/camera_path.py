"""How a virtual camera moves: the nine movements, their signs, and the path of one clip.

A pose is (x, y, zoom, roll) relative to where the camera stood at the start:
x in view widths to the right, y in view heights down, zoom as the logarithm of the magnification,
roll in radians counterclockwise as the operator sees it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

Floats = NDArray[np.float64]

MOVEMENTS: dict[str, tuple[int, int, int, int]] = {
    "static": (0, 0, 0, 0),
    "pan left": (-1, 0, 0, 0),
    "pan right": (1, 0, 0, 0),
    "tilt up": (0, -1, 0, 0),
    "tilt down": (0, 1, 0, 0),
    "zoom in": (0, 0, 1, 0),
    "zoom out": (0, 0, -1, 0),
    "roll left": (0, 0, 0, 1),
    "roll right": (0, 0, 0, -1),
}
"""The sign of each pose component while the camera makes the movement."""

LABELS: tuple[str, ...] = tuple(MOVEMENTS)
_LABEL_OF = {signs: label for label, signs in enumerate(MOVEMENTS.values())}


def reversed_label(label: int) -> int:
    """Label of the same clip played backwards."""
    x, y, zoom, roll = MOVEMENTS[LABELS[label]]
    return _LABEL_OF[-x, -y, -zoom, -roll]


def mirrored_label(label: int) -> int:
    """Label of the same clip with left and right exchanged."""
    x, y, zoom, roll = MOVEMENTS[LABELS[label]]
    return _LABEL_OF[-x, y, zoom, -roll]


def transposed_label(label: int) -> int:
    """Label of the same clip with rows and columns exchanged."""
    x, y, zoom, roll = MOVEMENTS[LABELS[label]]
    return _LABEL_OF[y, x, zoom, -roll]


@dataclass(frozen=True, kw_only=True)
class MotionRange:
    """How fast the camera moves and how much the hand shakes."""

    slowest: float
    """Mean speed a second, in view widths (pan), view heights (tilt), logarithm (zoom) or radians (roll)."""
    fastest: float
    """Likewise; rolls reach half as much again."""
    shake: float
    """Largest root mean square of the hand shake, as a fraction of the view."""
    easing: float
    """Probability that the movement speeds up, slows down or both, instead of being constant."""


def camera_path(rng: Generator, label: int, times: Floats, seconds: float, motion: MotionRange) -> Floats:
    """Poses (T, 4) at `times` of a camera that makes movement `label` within `seconds`, hand shake included.

    Speeds are drawn log-uniformly, so slow movements are as common as fast ones.
    """
    fastest = motion.fastest * (1.5 if LABELS[label].startswith("roll") else 1.0)
    speed = float(np.exp(rng.uniform(np.log(motion.slowest), np.log(fastest))))
    progress = eased(rng, times / seconds) if rng.random() < motion.easing else times / seconds
    signs = np.array(MOVEMENTS[LABELS[label]], dtype=np.float64)
    return speed * seconds * progress[:, None] * signs + hand_shake(rng, times, motion.shake)


def eased(rng: Generator, progress: Floats) -> Floats:
    """A monotone curve from 0 to 1 with the same ends: slow start, slow end, or both."""
    power = rng.uniform(1.2, 2.2)
    shape = rng.integers(3)
    slow_start: Floats = progress**power
    slow_end: Floats = (1 - progress) ** power
    if shape == 0:
        return slow_start
    if shape == 1:
        return 1 - slow_end
    return slow_start / (slow_start + slow_end)


def hand_shake(rng: Generator, times: Floats, largest: float) -> Floats:
    """Poses (T, 4) of an unsteady hand: tremor, sway and a drift far slower than any movement."""
    rms = largest * rng.beta(1.0, 1.5)
    waves = np.zeros((len(times), 4))
    for frequency in rng.uniform(0.6, 7.0, size=4):
        phase, gain = rng.uniform(0, 2 * np.pi, 4), rng.normal(size=4) / np.sqrt(frequency)
        waves += gain * np.sin(2 * np.pi * frequency * times[:, None] + phase)
    jitter = 0.3 * rng.random() * rng.normal(size=(len(times), 4))
    drift = rng.normal(size=4) * (times[:, None] - times[0])
    # Angles and scales of a hand-held camera vary less than its direction.
    shake: Floats = rms * (waves + jitter + 0.4 * drift.clip(-2, 2)) * np.array([1.0, 1.0, 0.6, 0.6])
    return shake
