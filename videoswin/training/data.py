"""Open the training and validation data of a run, and load its batches."""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from copy import copy
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import Any, Final

import torch
from torch.utils.data import DataLoader, Dataset

from videoswin._distributed import require_startable_workers, start_data_worker
from videoswin._errors import InputError
from videoswin._text import plural
from videoswin.data.check.advice import describe_single_class
from videoswin.data.dataset import Batch, BatchSampler, Draw, Item, VideoClips, collate
from videoswin.data.manifest import Manifest, Sample, read_manifest
from videoswin.data.splits import hold_out, make_groups
from videoswin.evaluation.plots import shortened
from videoswin.training.recipe import Recipe, SyntheticData, VideoData
from videoswin.weights.checkpoint import Checkpoint

VIDEO_NAME_WIDTH: Final = 60
"""Maximum number of characters of a video name in samples.png; longer names are shortened in the middle."""


@dataclass(frozen=True, kw_only=True)
class RunInputs:
    """The lists of videos and the initial checkpoint of a run, read once."""

    training: Manifest | None
    """The training videos; None for synthetic clips."""
    validation: Manifest | None
    """The validation videos; None for a run without validation."""
    checkpoint: Checkpoint | None
    """The initial checkpoint; None if the model is trained from scratch."""
    read_with: tuple[Any, ...]
    """The values of the recipe that the inputs depend on."""

    def are_those_of(self, recipe: Recipe) -> bool:
        """Return whether `read_inputs(recipe)` would return these inputs."""
        return self.read_with == _input_settings(recipe)


def read_inputs(recipe: Recipe, *, license: str | None = None) -> RunInputs:
    """Read the lists of videos and the initial checkpoint of a recipe.

    Args:
        recipe: The recipe of the run.
        license: License of a restricted initial checkpoint, repeated to accept it.

    Raises:
        InputError: As for `training_and_validation` and `Checkpoint.load`.
    """
    data, model = recipe.data, recipe.model
    checkpoint = training = validation = None
    if model.init_from is not None:
        window = None if model.config is None else model.config.window
        checkpoint = Checkpoint.load(model.init_from, window=window, license=license)
    if isinstance(data, VideoData):
        training, validation = training_and_validation(data, seed=recipe.run.seed)
    return RunInputs(
        training=training, validation=validation, checkpoint=checkpoint, read_with=_input_settings(recipe)
    )


def _input_settings(recipe: Recipe) -> tuple[Any, ...]:
    """Return the values of a recipe that `read_inputs` uses."""
    data, model = recipe.data, recipe.model
    videos: tuple[Any, ...] = ()
    if isinstance(data, VideoData):
        videos = (data.train, data.root, data.val, data.val_fraction, data.group_by, recipe.run.seed)
    return (*videos, model.init_from, model.config and model.config.window)


@dataclass(frozen=True, kw_only=True)
class DataSource:
    """Training clips, validation videos, and their classes."""

    dataset: Dataset[Item]
    """The training clips: `dataset[Draw(epoch, index)]` is an Item."""
    length: int
    """Number of items per epoch."""
    clips_per_item: int
    """Clips of one item."""
    labels: tuple[str, ...]
    """Names of the classes, in the order of the logits."""
    multi_label: bool
    """Whether a clip can have several labels."""
    shuffle: bool
    """Whether to shuffle the items; False for synthetic clips, which are read in order."""
    class_balanced: bool
    """Whether every class is sampled equally often."""
    max_failure_fraction: float
    """Fraction of the items that may turn out to be unreadable before the run stops."""
    training: Manifest | None
    """The training videos; None for synthetic clips."""
    validation: Manifest | None
    """The validation videos; None for a run without validation."""
    description: str
    """The clips in words, or as a path and a digest."""
    digest: str
    """Digest of the data, independent of where the files are: it changes with the clips or their labels."""

    @property
    def class_counts(self) -> list[int]:
        """Number of training videos of each class; all 1 for synthetic clips."""
        if self.training is None:
            return [1] * len(self.labels)
        counts = Counter(label for sample in self.training.samples for label in sample.labels)
        return [counts[label] for label in range(len(self.labels))]

    def sampling_weights(self) -> list[float] | None:
        """Return a weight for each training video with which all classes are sampled equally often.

        Returns:
            Weights in the order of the training videos, or None to use each video once per epoch.
        """
        if self.training is None or not self.class_balanced:
            return None
        counts = self.class_counts
        samples = self.training.samples
        num_unlabeled = sum(not sample.labels for sample in samples)  # weighted like a class of their own
        return [fmean([1 / counts[label] for label in s.labels] or [1 / num_unlabeled]) for s in samples]


def open_data_source(recipe: Recipe, inputs: RunInputs) -> DataSource:
    """Open the data of a recipe, whose lists of videos are in `inputs`.

    Raises:
        InputError: Synthetic clips do not have the size that the recipe states.
    """
    data, training, validation = recipe.data, inputs.training, inputs.validation
    if isinstance(data, SyntheticData):
        return _synthetic_source(data, recipe)
    assert isinstance(data, VideoData)
    assert training is not None
    dataset = VideoClips(
        training, data.clip, recipe.augment, seed=recipe.run.seed, num_repeats=data.num_repeats
    )
    return DataSource(
        dataset=dataset,
        length=len(dataset),
        clips_per_item=data.num_repeats,
        labels=training.classes,
        multi_label=training.multi_label,
        shuffle=True,
        class_balanced=data.class_balanced,
        max_failure_fraction=data.max_failure_fraction,
        training=training,
        validation=validation,
        description=f"{plural(len(dataset), 'video')} of {data.train}, SHA-256 {training.digest[:16]}",
        digest=f"SHA-256 {_digest(training)}"
        + ("" if validation is None else f", validation {_digest(validation)}"),
    )


def _digest(manifest: Manifest) -> str:
    """Return a digest of the manifest and the sizes of its files, which detects replaced files."""
    sizes = [os.path.getsize(s.path) if os.path.isfile(s.path) else None for s in manifest.samples]
    return hashlib.sha256(f"{manifest.digest} {sizes}".encode()).hexdigest()[:16]


def training_and_validation(source: VideoData, *, seed: int) -> tuple[Manifest, Manifest | None]:
    """Read the training and validation videos, which have the same classes.

    The validation videos are, in this order: those of `val`, the split `val` of `train`, or videos held out
    from the training videos. The split `test` of `train` is not used: a test set that was used for model
    selection no longer gives an unbiased estimate.

    Args:
        source: Lists of videos, and how to hold out videos from them.
        seed: Seed of the selection of held-out videos.

    Returns:
        Training videos, and validation videos or None.

    Raises:
        InputError: A list cannot be read, has no training videos, or has fewer than two classes.
    """
    manifest = _set_groups(read_manifest(source.train, root=source.root), source.group_by)
    if "train" in manifest.splits:
        training = manifest.part("train")
    else:
        unassigned = tuple(sample for sample in manifest.samples if sample.split is None)
        if not unassigned:
            raise InputError(
                f"{manifest.source} must have the split train or videos without a split to train on, got "
                f"the splits {', '.join(manifest.splits)}"
            )
        training = replace(manifest, samples=unassigned)
    if reason := describe_single_class(training, training.samples):
        raise InputError(f"{manifest.source}: {reason}")
    if source.val is not None:
        validation = read_manifest(source.val, root=source.root, classes=manifest.classes)
        validation = _set_groups(validation, source.group_by)
        # A list of both splits, such as a fold of UCF101: do not validate on its training videos.
        split = next((split for split in ("val", "test") if split in validation.splits), None)
        return training, validation if split is None else validation.part(split)
    if "val" in manifest.splits:
        return training, manifest.part("val")
    if source.val_fraction == 0:
        return training, None
    return hold_out(training, source.val_fraction, seed=seed)


def _set_groups(manifest: Manifest, rule: str | None) -> Manifest:
    return manifest if rule is None else make_groups(manifest, rule)


def _synthetic_source(data: SyntheticData, recipe: Recipe) -> DataSource:
    """Return the data source of synthetic clips; InputError if they do not have the size of `data.clip`."""
    dataset, clip = data.clips(recipe.run.seed), data.clip
    clips = dataset[Draw(0, 0)].clips
    if clips.shape[1:] != (3, clip.frames, clip.size, clip.size):
        raise InputError(
            f"clips of {recipe.name} must have the shape of data.clip, (3, {clip.frames}, {clip.size}, "
            f"{clip.size}), got {tuple(clips.shape[1:])}: do not change data.clip.frames or data.clip.size"
        )
    return DataSource(
        dataset=dataset,
        length=len(dataset),  # type: ignore[arg-type]  # Dataset does not declare __len__
        clips_per_item=len(clips),
        labels=data.labels,
        multi_label=False,
        shuffle=False,
        class_balanced=False,
        max_failure_fraction=0.0,
        training=None,
        validation=None,
        description=data.description,
        digest=data.description,
    )


def build_sampler(source: DataSource, recipe: Recipe, rank: int, world_size: int) -> BatchSampler:
    """Return the sampler of the batches of one process.

    Args:
        source: Training data.
        recipe: The batch size and the seed are used.
        rank: Index of this process, 0 to world_size - 1.
        world_size: Number of processes.
    """
    return BatchSampler(
        source.length,
        recipe.data.batch_size // source.clips_per_item,
        seed=recipe.run.seed,
        shuffle=source.shuffle,
        weights=source.sampling_weights(),
        rank=rank,
        world_size=world_size,
    )


def build_loader(
    source: DataSource, sampler: BatchSampler, num_workers: int, device: torch.device
) -> DataLoader[Batch]:
    """Return a data loader that prefetches batches; each iteration gives the rest of an epoch.

    Args:
        source: Training data.
        sampler: Sampler of the batches of this process.
        num_workers: Worker processes; 0 decodes in the main process.
        device: Device of the training; memory is pinned for CUDA.
    """
    require_startable_workers(num_workers, name="data.num_workers")
    return DataLoader(
        source.dataset,  # type: ignore[arg-type]  # a dataset of items, which are collated to batches
        batch_sampler=sampler,
        num_workers=num_workers,
        persistent_workers=num_workers > 0,
        collate_fn=collate,
        pin_memory=device.type == "cuda",
        worker_init_fn=start_data_worker,
    )


def first_videos(source: DataSource, sampler: BatchSampler) -> list[str]:
    """Return the name of the video of each clip in the first batch; empty for synthetic clips."""
    if source.training is None:
        return []
    first = copy(sampler)
    first.load_state_dict({"epoch": 0, "batch": 0})
    samples = [source.training.samples[draw.item] for draw in next(iter(first))]
    return [video_name(sample) for sample in samples for _ in range(source.clips_per_item)]


def video_name(sample: Sample) -> str:
    """Return the shortened folder and file name of a sample, with its start and end if it has them."""
    name = shortened("/".join(Path(sample.path).parts[-2:]), VIDEO_NAME_WIDTH)
    if sample.start_seconds is None and sample.end_seconds is None:
        return name
    end = "the end" if sample.end_seconds is None else f"{sample.end_seconds:g} s"
    return f"{name}, {sample.start_seconds or 0:g} s to {end}"
