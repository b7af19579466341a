"""Random changes to a training clip, the same for all its frames: short pure functions on uint8 frames.

T frames, H height, W width, S side of the square crop. Frames are (T, 3, H, W), channels last in memory.
"""

from __future__ import annotations

from dataclasses import dataclass

from numpy.random import Generator
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class ClipAugment:
    """What is done to a training clip, the same to all its frames."""

    short_side: int | None = None
    """Resize to this before cropping, as the official pipeline does; None crops the decoded frame."""
    area: tuple[float, float] = (0.08, 1.0)
    """Part of the frame's area that a random crop takes."""
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    """Width over height of that crop."""
    flip: float = 0.5
    """Probability of mirroring left and right."""
    flip_pairs: tuple[tuple[str, str], ...] = ()
    """Labels that trade places when a clip is mirrored, such as ("pan left", "pan right")."""
    colour_jitter: float = 0.0
    """Largest relative change of brightness, contrast and saturation; hue changes by a quarter of it."""
    rand_augment: int = 0
    """Operations of RandAugment on each clip."""
    rand_magnitude: float = 7.0
    """Their strength, 0 to 10."""
    erasing: float = 0.0
    """Probability of blanking a rectangle, the same in all frames."""


def augment_clip(
    frames_thwc: Tensor, size: int, plan: ClipAugment, rng: Generator, *, antialias: bool
) -> tuple[Tensor, bool]:
    """Decoded frames (T, H, W, 3) uint8 -> a training clip (3, T, size, size) uint8, and whether it is mirrored."""
    raise NotImplementedError
