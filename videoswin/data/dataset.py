"""Labeled video files as training clips: one draw, one decoded clip, one or more augmented versions of it.

T frames, S side of the square, N versions, K classes.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from videoswin._errors import InputError
from videoswin.data.batch import Draw, Failure, Item
from videoswin.data.manifest import Manifest, Sample
from videoswin.video.augment import ClipAugment, augment_clip
from videoswin.video.excerpt import excerpt
from videoswin.video.reader import VideoError, VideoReader, open_video
from videoswin.video.sampling import random_clip
from videoswin.video.spec import ClipSpec


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
