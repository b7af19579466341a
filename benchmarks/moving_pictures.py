"""Synthetic clips of dots that drift in one direction and then in another; only the order reveals the label.

A dot that leaves on one side enters on the other (a torus), PERIOD pixels are a full cycle, and all positions
are equally probable. N clips, T frames, S side of a frame, P period.
"""

from __future__ import annotations

import itertools
from typing import Final

import numpy as np
import torch
from numpy.random import Generator
from torch import Tensor
from torch.utils.data import Dataset

from videoswin.data.dataset import Draw, Item
from videoswin.video.spec import PER_CLIP, ClipSpec

PERIOD: Final = 16
"""Side of a frame in pixels; a dot that leaves on one side enters on the other."""
FRAMES: Final = 16
STEP: Final = 2
"""Movement from one frame to the next, in pixels: a full cycle is eight frames."""
NUM_DOTS: Final = 3
DOT_RADIUS: Final = 1.8
"""Standard deviation of a dot's brightness, times the square root of 2, in pixels."""
CLIPS_PER_ITEM: Final = 32

WAYS: Final = tuple(itertools.product((1, -1), (1, -1), (True, False)))
"""For each label: right (1) or left (-1), down (1) or up (-1), and whether the horizontal part is first."""
LABELS: Final = tuple(
    " then ".join(names if first else names[::-1])
    for names, first in (
        (("right" if x > 0 else "left", "down" if y > 0 else "up"), first) for x, y, first in WAYS
    )
)
CLIP: Final = ClipSpec(
    frames=FRAMES, stride=1, fps=8.0, size=PERIOD, short_side=PERIOD, normalization=PER_CLIP
)


class DriftingDots(Dataset[Item]):
    """`dataset[Draw(epoch, index)]` is CLIPS_PER_ITEM clips, which depend only on the seed and the draw."""

    def __init__(
        self, length: int, *, seed: int, any_turn: bool = False, noise: float = 0.0, doubled: bool = False
    ) -> None:
        """Create a dataset of `length` items per epoch; see `drifting_dots` and `doubled_frames`."""
        self.length, self.seed = length, seed
        self.any_turn, self.noise, self.doubled = any_turn, noise, doubled

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, draw: Draw) -> Item:
        epoch, index, _ = draw
        rng = np.random.default_rng((self.seed, epoch, index))
        labels = torch.from_numpy(rng.integers(len(LABELS), size=CLIPS_PER_ITEM))
        clips = drifting_dots(rng, labels, any_turn=self.any_turn, noise=self.noise)
        return Item(doubled_frames(clips) if self.doubled else clips, labels)


def drifting_dots(rng: Generator, labels: Tensor, *, any_turn: bool = False, noise: float = 0.0) -> Tensor:
    """Return clips of these labels (N,): uint8 (N, 3, T, P, P).

    The dots change direction in the middle of the clip. Each part is a full cycle, so clips of all labels
    consist of the same frames in a different order, and a model that ignores the order cannot distinguish
    them.

    Args:
        any_turn: Change direction at a random frame of the middle half instead.
        noise: Standard deviation of independent noise in each pixel value.
    """
    if any_turn:
        turn = torch.from_numpy(rng.integers(FRAMES // 4, 3 * FRAMES // 4 + 1, size=(len(labels), 1)))
    else:
        turn = torch.full((len(labels), 1), FRAMES // 2)
    offsets = path(labels, turn)  # (N, T, 2)
    line = torch.arange(PERIOD)
    columns, rows = ((line - offsets[..., axis, None]) % PERIOD for axis in range(2))  # (N, T, P)
    places = (rows[..., :, None] * PERIOD + columns[..., None, :]).flatten(1)  # (N, T*P*P)
    picture = dots(rng, len(labels)).flatten(2)  # (N, 3, P*P)
    clips = picture.gather(2, places[:, None].expand(-1, 3, -1)).unflatten(2, (FRAMES, PERIOD, PERIOD))
    if noise:
        clips = clips + noise * torch.from_numpy(rng.standard_normal(clips.shape, dtype=np.float32))
    return clips.clamp(0, 255).to(torch.uint8)


def path(labels: Tensor, turn: Tensor) -> Tensor:
    """Return the offset of each frame, right and down: labels (N,), turning frames (N, 1) -> (N, T, 2)."""
    right, down, first = torch.tensor(WAYS)[labels].T[..., None]  # each (N, 1)
    time = torch.arange(FRAMES)
    before, after = torch.minimum(time, turn), (time - turn).clamp(min=0)  # frames moved in each part, (N, T)
    sideways = torch.where(first.bool(), before, after)
    return STEP * torch.stack([right * sideways, down * (before + after - sideways)], dim=-1)


def dots(rng: Generator, count: int) -> Tensor:
    """Return images of colored dots at random positions of a torus: floats (N, 3, P, P) in 0..255."""
    places = torch.from_numpy(rng.uniform(0, PERIOD, size=(count, NUM_DOTS, 2, 1)))
    colors = torch.from_numpy(rng.uniform(0, 255, size=(count, NUM_DOTS, 3)))
    away = (torch.arange(PERIOD) - places + PERIOD / 2) % PERIOD - PERIOD / 2
    profile = torch.exp(-((away / DOT_RADIUS) ** 2))  # (N, dots, 2, P)
    return torch.einsum("ndc,ndy,ndx->ncyx", colors, profile[:, :, 0], profile[:, :, 1]).float()


def doubled_frames(clips: Tensor) -> Tensor:
    """Replace each odd frame of clips (N, 3, T, S, S) by the even frame before it.

    The patch embedding combines two frames into one token, so no token contains movement then.
    """
    return clips[:, :, ::2].repeat_interleave(2, dim=2)
