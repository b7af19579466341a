"""What a run learns from and is judged by, opened: datasets, classes, and how often each class occurs."""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from dataclasses import dataclass, replace
from statistics import fmean

from torch.utils.data import Dataset

from videoswin._errors import InputError
from videoswin._text import plural
from videoswin.data.check.advice import describe_single_class
from videoswin.data.dataset import Draw, Item, VideoClips
from videoswin.data.groups import make_groups
from videoswin.data.manifest import Manifest, hold_out, read_manifest
from videoswin.training.recipe import Recipe, SyntheticData, VideoData


@dataclass(frozen=True, kw_only=True)
class Source:
    """Training clips, the videos to validate on, and what their classes are."""

    dataset: Dataset[Item]
    """Items by Draw."""
    length: int
    """Items in an epoch."""
    clips_per_item: int
    labels: tuple[str, ...]
    """Names of the classes, in the order of the logits."""
    multi_label: bool
    shuffle: bool
    """False for generated clips, which come in an order of their own."""
    class_balanced: bool
    """Whether rare classes are drawn as often as common ones."""
    max_failure_fraction: float
    """Part of the items that may be unreadable before the run stops."""
    training: Manifest | None
    """The training videos; None for generated clips."""
    validation: Manifest | None
    """None if there is nothing to validate on."""
    description: str
    """What the clips are, in words or as a path and a hash."""
    digest: str
    """What they are, wherever they lie: other clips or labels have another one."""

    @property
    def class_counts(self) -> list[int]:
        """Training videos of each class; all 1 for generated clips."""
        if self.training is None:
            return [1] * len(self.labels)
        counts = Counter(label for sample in self.training.samples for label in sample.labels)
        return [counts[label] for label in range(len(self.labels))]

    def drawing_weights(self) -> list[float] | None:
        """How often to draw each training video so that all classes come equally often; None if each once."""
        if self.training is None or not self.class_balanced:
            return None
        counts = self.class_counts
        samples = self.training.samples
        unlabeled = sum(not sample.labels for sample in samples)  # a class of their own
        return [fmean([1 / counts[label] for label in s.labels] or [1 / unlabeled]) for s in samples]


def open_source(recipe: Recipe) -> Source:
    """The clips that a recipe asks for; ValueError if its lists cannot be read or hold nothing."""
    if isinstance(recipe.data, SyntheticData):
        return _generated(recipe.data, recipe)
    training, validation = training_and_validation(recipe.data, seed=recipe.run.seed)
    source = recipe.data
    dataset = VideoClips(
        training, recipe.data.clip, recipe.augment, seed=recipe.run.seed, num_repeats=source.num_repeats
    )
    return Source(
        dataset=dataset,
        length=len(dataset),
        clips_per_item=source.num_repeats,
        labels=training.classes,
        multi_label=training.multi_label,
        shuffle=True,
        class_balanced=source.class_balanced,
        max_failure_fraction=source.max_failure_fraction,
        training=training,
        validation=validation,
        description=f"{plural(len(dataset), 'video')} of {source.train}, SHA-256 {training.digest[:16]}",
        digest=f"SHA-256 {_digest(training)}"
        + ("" if validation is None else f", validation {_digest(validation)}"),
    )


def _digest(manifest: Manifest) -> str:
    """The manifest's digest with the sizes of its files: other videos of the same names are other data."""
    sizes = [os.path.getsize(s.path) if os.path.isfile(s.path) else None for s in manifest.samples]
    return hashlib.sha256(f"{manifest.digest} {sizes}".encode()).hexdigest()[:16]


def training_and_validation(source: VideoData, *, seed: int) -> tuple[Manifest, Manifest | None]:
    """The videos to learn from and those to validate on, which share their classes.

    Validation is, in this order: the list named for it, the split `val`, a part of the training videos held
    back. The split `test` is never touched: whoever chooses by it has nothing left to test on.
    """
    listed = _grouped(read_manifest(source.train, root=source.root), source.group_by)
    if "train" in listed.splits:
        training = listed.part("train")
    else:
        unassigned = tuple(sample for sample in listed.samples if sample.split is None)
        if not unassigned:
            raise InputError(
                f"{listed.source} has the splits {', '.join(listed.splits)}, but none to train on"
            )
        training = replace(listed, samples=unassigned)
    if reason := describe_single_class(training, training.samples):
        raise InputError(f"{listed.source}: {reason}")
    if source.val is not None:
        validation = read_manifest(source.val, root=source.root, classes=listed.classes)
        validation = _grouped(validation, source.group_by)
        # A list of both sides, such as a fold of UCF101, must not be validated on what is learned.
        split = next((split for split in ("val", "test") if split in validation.splits), None)
        return training, validation if split is None else validation.part(split)
    if "val" in listed.splits:
        return training, listed.part("val")
    if source.val_fraction == 0:
        return training, None
    return hold_out(training, source.val_fraction, seed=seed)


def _grouped(manifest: Manifest, rule: str | None) -> Manifest:
    return manifest if rule is None else make_groups(manifest, rule)


def _generated(source: SyntheticData, recipe: Recipe) -> Source:
    dataset, clip = source.clips(recipe.run.seed), recipe.data.clip
    made = dataset[Draw(0, 0)].clips
    if made.shape[1:] != (3, clip.frames, clip.size, clip.size):
        raise InputError(
            f"{recipe.name} generates clips of {tuple(made.shape[1:])}, but data.clip says {clip.frames} "
            f"frames of {clip.size} pixels: leave data.clip.frames and data.clip.size as they are"
        )
    return Source(
        dataset=dataset,
        length=len(dataset),  # type: ignore[arg-type]  # Dataset does not promise what all of ours have
        clips_per_item=len(made),
        labels=source.labels,
        multi_label=False,
        shuffle=False,
        class_balanced=False,
        max_failure_fraction=0.0,
        training=None,
        validation=None,
        description=source.description,
        digest=source.description,
    )
