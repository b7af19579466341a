"""Labeled video files as training clips: one draw, one decoded clip, one or more augmented versions of it.

T frames, S side of the square, N versions, K classes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, Sampler

from videoswin._errors import InputError
from videoswin._text import plural
from videoswin.data.manifest import Manifest, Sample
from videoswin.video.augment import ClipAugment, augment_clip
from videoswin.video.frames import excerpt
from videoswin.video.reader import VideoError, VideoReader, open_video
from videoswin.video.sampling import random_clip
from videoswin.video.spec import ClipSpec


class Draw(NamedTuple):
    """Which clip to make. With the seed it decides everything random about it."""

    epoch: int
    item: int
    again: int = 0
    """How often the item was drawn in this epoch before, where some are drawn oftener than others."""


@dataclass(frozen=True)
class Failure:
    """A video that cannot be read, and why."""

    path: str
    reason: str


class Item(NamedTuple):
    """What a training dataset gives for one Draw."""

    clips: Tensor
    """(N, 3, T, S, S) uint8; N is the same for every item of a dataset."""
    targets: Tensor
    """(N,) class indices, or (N, K) ones and zeros where a video can have several labels."""
    failure: Failure | None = None
    """If the video cannot be read: the clips are blank then, and must not count."""


class Batch(NamedTuple):
    """Items as one."""

    clips: Tensor
    """(B, 3, T, S, S) uint8."""
    targets: Tensor
    """(B,) or (B, K), as in Item."""
    counts: Tensor
    """(B,) 1.0, and 0.0 for clips of videos that cannot be read."""
    failures: list[Failure]


def collate(items: list[Item]) -> Batch:
    """The clips of several items in one batch."""
    counts = [torch.full((len(item.clips),), float(item.failure is None)) for item in items]
    return Batch(
        clips=torch.cat([item.clips for item in items]),
        targets=torch.cat([item.targets for item in items]),
        counts=torch.cat(counts),
        failures=[item.failure for item in items if item.failure is not None],
    )


class BatchSampler(Sampler[list[Draw]]):
    """Batches of draws, one epoch at an iteration, from wherever `load_state_dict` puts it.

    Every rank sees its own part of the same batch, so that N ranks learn from what one would. An epoch's last
    draws that do not fill a batch are left out; shuffling leaves out others each time.
    """

    def __init__(
        self,
        length: int,
        batch_size: int,
        *,
        seed: int,
        shuffle: bool = True,
        weights: Sequence[float] | None = None,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        """length: items in the dataset; batch_size: items in a batch of all ranks together.

        weights: how often each item is drawn, relatively and with replacement; None is each once an epoch.
        ValueError if the batch is larger than the dataset or does not divide among the ranks.
        """
        if not 1 <= batch_size <= length:
            raise InputError(
                f"a batch of {batch_size} cannot be drawn from {length} items: lower data.batch_size"
            )
        if batch_size % world_size:
            raise InputError(
                f"a batch of {plural(batch_size, 'item')} does not divide among {world_size} processes"
            )
        if weights is not None and len(weights) != length:
            raise InputError(f"there are {len(weights)} weights for {length} items")
        self.length, self.batch_size, self.seed, self.shuffle = length, batch_size, seed, shuffle
        self.weights = None if weights is None else np.asarray(weights, float) / np.sum(weights)
        self.rank, self.world_size = rank, world_size
        self.epoch, self.batch = 0, 0

    def __len__(self) -> int:
        """Batches in a whole epoch."""
        return self.length // self.batch_size

    def __iter__(self) -> Iterator[list[Draw]]:
        """The rest of this epoch; the next iteration is the next epoch."""
        epoch, first = self.epoch, self.batch
        self.epoch, self.batch = epoch + 1, 0
        draws = self._draws(epoch)
        for batch in range(first, len(self)):
            whole = draws[batch * self.batch_size : (batch + 1) * self.batch_size]
            yield whole[self.rank :: self.world_size]

    def _draws(self, epoch: int) -> list[Draw]:
        """All draws of an epoch; one item drawn again is another draw."""
        drawn: Counter[int] = Counter()
        draws = []
        for item in self._order(epoch).tolist():
            draws.append(Draw(epoch, item, drawn[item]))
            drawn[item] += 1
        return draws

    def _order(self, epoch: int) -> np.ndarray:
        rng = np.random.default_rng((self.seed, epoch))
        if self.weights is not None:
            return rng.choice(self.length, size=self.length, p=self.weights)
        return rng.permutation(self.length) if self.shuffle else np.arange(self.length)

    def state_dict(self) -> dict[str, int]:
        """Where the next iteration begins. How far this one is, only the loop knows: workers fetch ahead."""
        return {"epoch": self.epoch, "batch": self.batch}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Begin the next iteration there: `batch` batches into epoch `epoch`."""
        self.epoch, self.batch = state["epoch"], state["batch"]


class VideoClips(Dataset[Item]):
    """`dataset[Draw(epoch, index)]`: a random clip of sample `index`, augmented.

    It depends on the seed and the draw alone. Only the frames of the clip are decoded. A video that cannot be
    read gives blank clips and the reason: it is never replaced by another one.
    """

    def __init__(
        self, manifest: Manifest, clip: ClipSpec, augment: ClipAugment, *, seed: int, num_repeats: int = 1
    ) -> None:
        """repeats: N, differently augmented versions of each decoded clip. ValueError for `flip_pairs` that
        name no class, or a class twice."""
        self.manifest, self.clip, self.augment, self.seed, self.num_repeats = (
            manifest,
            clip,
            augment,
            seed,
            num_repeats,
        )
        self._mirrored = mirrored_classes(manifest.classes, augment.flip_pairs)

    def __len__(self) -> int:
        return len(self.manifest.samples)

    def __getitem__(self, draw: Draw) -> Item:
        sample = self.manifest.samples[draw.item]
        rng = np.random.default_rng((self.seed, *draw))
        try:
            frames_thwc = self._read(sample, rng)
        except VideoError as error:
            blank = torch.zeros(
                self.num_repeats, 3, self.clip.frames, self.clip.size, self.clip.size, dtype=torch.uint8
            )
            targets = torch.stack([self._target(sample, mirrored=False)] * self.num_repeats)
            return Item(blank, targets, Failure(error.path, error.reason))
        versions = [
            augment_clip(frames_thwc, self.clip.size, self.augment, rng, antialias=self.clip.antialias)
            for _ in range(self.num_repeats)
        ]
        return Item(
            torch.stack([clip for clip, _ in versions]),  # (N, 3, T, S, S)
            torch.stack([self._target(sample, mirrored=mirrored) for _, mirrored in versions]),
        )

    def _read(self, sample: Sample, rng: np.random.Generator) -> Tensor:
        """The frames of one random clip: (T, H, W, 3) uint8."""
        with open_video(sample.path) as video:
            return read_random_clip(excerpt(video, sample.start_seconds, sample.end_seconds), self.clip, rng)

    def _target(self, sample: Sample, *, mirrored: bool) -> Tensor:
        """The class, or (K,) ones and zeros where a video can have several."""
        labels = [self._mirrored[label] if mirrored else label for label in sample.labels]
        if not self.manifest.multi_label:
            return torch.tensor(labels[0])
        target = torch.zeros(len(self.manifest.classes))
        target[labels] = 1.0
        return target


def read_random_clip(reader: VideoReader, clip: ClipSpec, rng: np.random.Generator) -> Tensor:
    """Frames of a random clip, (T, H, W, 3) uint8; of the readable part if the video's end is broken.

    VideoError if together they have more pixels than `reader.limits.max_clip_pixels`.
    """
    while True:
        num_frames = reader.num_readable
        indices = random_clip(num_frames, reader.fps, clip, rng, reader.times)
        frames_thwc = reader.read(indices, max_pixels=reader.limits.max_clip_pixels)
        if reader.num_readable == num_frames:
            return frames_thwc


def mirrored_classes(classes: tuple[str, ...], pairs: tuple[tuple[str, str], ...]) -> list[int]:
    """For each class the class of its mirror image: itself, but for `pairs` of names that trade places."""
    mirrored = list(range(len(classes)))
    for pair in pairs:
        if unknown := [name for name in pair if name not in classes]:
            raise InputError(f"flip_pairs names {unknown[0]!r}, which is no class of the data")
        left, right = (classes.index(name) for name in pair)
        if mirrored[left] != left or mirrored[right] != right:
            raise InputError(f"flip_pairs names {pair[0]!r} or {pair[1]!r} in more than one pair")
        mirrored[left], mirrored[right] = right, left
    return mirrored
