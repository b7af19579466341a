"""Training dataset of labeled videos: each draw decodes one clip and augments it one or more times.

B batch, T frames of a clip, H height, W width, S side of the square crop, R augmented versions, K classes.
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

from videoswin._errors import InputError, VideoError
from videoswin.data.manifest import Manifest, Sample
from videoswin.video.augment import ClipAugment, augment_clip
from videoswin.video.excerpt import excerpt
from videoswin.video.reader import VideoReader, open_video
from videoswin.video.sampling import random_clip
from videoswin.video.spec import ClipSpec


class Draw(NamedTuple):
    """Key of a training clip; together with the seed it determines all random choices for the clip."""

    epoch: int
    """Epoch, from 0."""
    item: int
    """Index of the sample in the dataset."""
    again: int = 0
    """Number of earlier draws of the item in this epoch, for sampling with replacement."""


@dataclass(frozen=True)
class Failure:
    """A video that cannot be read, and the reason."""

    path: str
    """Video file or folder of frames."""
    reason: str
    """The reason in one line."""


class Item(NamedTuple):
    """Output of a training dataset for one Draw."""

    clips: Tensor
    """(R, 3, T, S, S) uint8; R is the same for every item of a dataset."""
    targets: Tensor
    """(R,) class indices, or (R, K) ones and zeros if the manifest is multi-label."""
    failure: Failure | None = None
    """Set if the video cannot be read; the clips are then blank and must have zero weight."""


class Batch(NamedTuple):
    """Several items, concatenated."""

    clips: Tensor
    """(B, 3, T, S, S) uint8."""
    targets: Tensor
    """(B,) or (B, K), as in Item."""
    weights: Tensor
    """(B,) weights in the loss: 1.0, or 0.0 for clips of videos that cannot be read."""
    failures: list[Failure]
    """The videos that cannot be read."""


def collate(items: list[Item]) -> Batch:
    """Concatenate the clips of several items into one batch."""
    weights = [torch.full((len(item.clips),), float(item.failure is None)) for item in items]
    return Batch(
        clips=torch.cat([item.clips for item in items]),
        targets=torch.cat([item.targets for item in items]),
        weights=torch.cat(weights),
        failures=[item.failure for item in items if item.failure is not None],
    )


class BatchSampler(Sampler[list[Draw]]):
    """Sampler of batches of draws, one epoch per iteration, resumable by `load_state_dict`.

    Each rank receives its own part of the same batch, so training does not depend on the number of ranks. The
    last draws of an epoch that do not fill a batch are dropped; with shuffling, they differ in each epoch.
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
        """Create a sampler that begins at the first batch of epoch 0.

        Args:
            length: Number of items in the dataset.
            batch_size: Number of items in a batch over all ranks, from 1 to `length`.
            seed: Seed of the order of the items.
            shuffle: Draw the items in random order; ignored if there are weights.
            weights: Relative frequency of each item, drawn with replacement; None draws each item once per
                epoch.
            rank: Index of this process.
            world_size: Number of processes; must divide `batch_size`.

        Raises:
            InputError: The batch size is out of range or not divisible by the number of ranks, or there is
                not one weight per item.
        """
        if not 1 <= batch_size <= length:
            raise InputError(
                f"data.batch_size must be from 1 to the number of items, {length}, got {batch_size}"
            )
        if batch_size % world_size:
            raise InputError(
                f"data.batch_size must be a multiple of the {world_size} processes, got {batch_size}"
            )
        if weights is not None and len(weights) != length:
            raise InputError(f"weights must have one value for each of {length} items, got {len(weights)}")
        self.length, self.batch_size, self.seed, self.shuffle = length, batch_size, seed, shuffle
        self.weights = None if weights is None else np.asarray(weights, float) / np.sum(weights)
        self.rank, self.world_size = rank, world_size
        self.epoch, self.batch = 0, 0

    def __len__(self) -> int:
        """Return the number of batches in a full epoch."""
        return self.length // self.batch_size

    def __iter__(self) -> Iterator[list[Draw]]:
        """Iterate over the remaining batches of this epoch; the next iteration is the next epoch."""
        epoch, first = self.epoch, self.batch
        self.epoch, self.batch = epoch + 1, 0
        draws = self._draws(epoch)
        for batch in range(first, len(self)):
            whole = draws[batch * self.batch_size : (batch + 1) * self.batch_size]
            yield whole[self.rank :: self.world_size]

    def _draws(self, epoch: int) -> list[Draw]:
        """Return all draws of an epoch; repeated draws of one item differ in `again`."""
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
        """Return where the next iteration begins, not the progress of this one: workers prefetch batches."""
        return {"epoch": self.epoch, "batch": self.batch}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Begin the next iteration at batch `batch` of epoch `epoch`."""
        self.epoch, self.batch = state["epoch"], state["batch"]


class VideoClips(Dataset[Item]):
    """Dataset of random augmented clips: `dataset[Draw(epoch, index)]` is a clip of sample `index`.

    The clip depends only on the seed and the draw. Only the frames of the clip are decoded. A video that
    cannot be read gives blank clips and the reason: it is never replaced by another video.
    """

    def __init__(
        self, manifest: Manifest, clip: ClipSpec, augment: ClipAugment, *, seed: int, num_repeats: int = 1
    ) -> None:
        """Create the dataset.

        Args:
            manifest: Labeled videos to train on.
            clip: Sampling and size of the clips.
            augment: Augmentation of the clips.
            seed: Seed of all random choices.
            num_repeats: Number of augmented versions of each decoded clip, R (repeated augmentation), >= 1.

        Raises:
            InputError: `augment.flip_pairs` has an unknown class, or a class in several pairs.
        """
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
            torch.stack([clip for clip, _ in versions]),  # (R, 3, T, S, S)
            torch.stack([self._target(sample, mirrored=mirrored) for _, mirrored in versions]),
        )

    def _read(self, sample: Sample, rng: np.random.Generator) -> Tensor:
        """Read the frames of one random clip: (T, H, W, 3) uint8."""
        with open_video(sample.path) as video:
            return read_random_clip(excerpt(video, sample.start_seconds, sample.end_seconds), self.clip, rng)

    def _target(self, sample: Sample, *, mirrored: bool) -> Tensor:
        """Return the class index, or (K,) ones and zeros if the manifest is multi-label."""
        labels = [self._mirrored[label] if mirrored else label for label in sample.labels]
        if not self.manifest.multi_label:
            return torch.tensor(labels[0])
        target = torch.zeros(len(self.manifest.classes))
        target[labels] = 1.0
        return target


def read_random_clip(reader: VideoReader, clip: ClipSpec, rng: np.random.Generator) -> Tensor:
    """Read the frames of a random clip; if the end of the video is damaged, a clip of the readable part.

    Args:
        reader: An open video.
        clip: Sampling of the clip.
        rng: Source of the random position.

    Returns:
        (T, H, W, 3) uint8.

    Raises:
        VideoError: No frame can be decoded, or the frames together have more pixels than
            `reader.limits.max_clip_pixels`.
    """
    while True:
        num_frames = reader.num_readable
        indices = random_clip(num_frames, reader.fps, clip, rng, reader.variable_times)
        frames_thwc = reader.read(indices, max_pixels=reader.limits.max_clip_pixels)
        if reader.num_readable == num_frames:
            return frames_thwc


def mirrored_classes(classes: tuple[str, ...], pairs: tuple[tuple[str, str], ...]) -> list[int]:
    """Return for each class the class of its mirror image: itself, except for the `pairs`, which are swapped.

    Args:
        classes: Class names; the result has indices into them.
        pairs: Class names that are swapped, such as ("turn left", "turn right").

    Raises:
        InputError: A pair has an unknown class, or a class is in several pairs.
    """
    mirrored = list(range(len(classes)))
    for pair in pairs:
        if unknown := [name for name in pair if name not in classes]:
            raise InputError(f"flip_pairs must be pairs of classes of the data, got {unknown[0]!r}")
        left, right = (classes.index(name) for name in pair)
        if mirrored[left] != left or mirrored[right] != right:
            raise InputError(
                f"flip_pairs must have each class in at most one pair, got {pair[0]!r} or {pair[1]!r} twice"
            )
        mirrored[left], mirrored[right] = right, left
    return mirrored
