"""Describe in sentences what the classes, groups and frame rates of labeled videos mean for training."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from typing import Final

from videoswin._errors import InputError
from videoswin._text import first_few, plural
from videoswin.data.lists.rows import SPLIT_NAMES, folded_name
from videoswin.data.manifest import Manifest, Sample
from videoswin.data.splits import group_by_folder, hold_out
from videoswin.video.reader import FOLDER_FPS

VAL_FRACTION: Final = 0.2
"""Fraction of each class that fine-tuning holds out if the list has no splits."""
FOLDER_RULES: Final = ("folder", "folder:2")
"""Values of data.group_by for the folder of a file and the folder above it."""
MAX_LISTED_FOLDERS: Final = 3
"""Largest number of folder names in a sentence."""


def training_samples(manifest: Manifest) -> tuple[Sample, ...]:
    """Return the samples used for training: those of the split `train`, or else those without a split."""
    splits = {sample.split for sample in manifest.samples}
    split = "train" if "train" in splits else None
    return tuple(sample for sample in manifest.samples if sample.split == split)


def describe_single_class(manifest: Manifest, training: Sequence[Sample]) -> str | None:
    """Return a sentence if all training samples are of one class; None if they are of several classes.

    Args:
        manifest: Labeled videos, for the names of the classes.
        training: The samples of it that are trained on.
    """
    if manifest.multi_label or len({sample.labels for sample in training}) != 1:
        return None
    return (
        "at least 2 classes with training videos are required, got 1 "
        f"({manifest.classes[training[0].labels[0]]}): a model with a single class learns nothing; add "
        "other videos as another class"
    )


def describe_next_steps(
    manifest: Manifest, clean: Manifest, has_leaks: bool, written: str | None, model: str, root: str | None
) -> list[str]:
    """Return sentences with the commands to run next.

    Args:
        manifest: The checked videos.
        clean: The samples of them that can be used.
        has_leaks: Whether splits of `clean` share videos or groups.
        written: Path of the list of `clean`, if it was written.
        model: Initial weights of the suggested training.
        root: Folder that the paths of the list start from.
    """
    num_samples, num_clean = len(manifest.samples), len(clean.samples)
    if num_clean == 0:
        return ["Training is not possible: no sample can be used."]
    steps = []
    data = manifest.source
    if num_clean < num_samples:
        data, root = written or "clean.csv", None  # its paths are relative to its own folder
        usable = f"{num_clean} of {plural(num_samples, 'sample')} that can be used"
        suggestion = f"Add --out {data} to the command for a list of the {usable}."
        steps.append(f"{written} lists the {usable}." if written else suggestion)
    if has_leaks:
        leaks = "Several splits still share parts of one video or videos of one group"
        return [*steps, f"{leaks}: split again, whole videos and groups at a time."]
    if reason := describe_single_class(clean, training_samples(clean)):
        return [*steps, f"Training is not possible: {reason}."]
    command = f"videoswin train finetune --data {shlex.quote(data)} --model {shlex.quote(model)} --out run/"
    command += f" --root {shlex.quote(root)}" if root is not None else ""
    if all(sample.group is None for sample in manifest.samples):
        steps += describe_missing_groups(clean, command, fraction=VAL_FRACTION)
    return [*steps, f"To train: {command}"]


def describe_missing_groups(manifest: Manifest, command: str, *, fraction: float) -> list[str]:
    """Return sentences on what training and validation may share, and how to define groups.

    Args:
        manifest: Labeled videos without groups.
        command: Training command for these videos.
        fraction: Fraction of each class that would be held out.
    """
    sharing = (
        "No groups are known, so training and validation may share people, places and source videos, and the "
        "accuracy on new ones may be lower than the validation accuracy."
    )
    if found := find_folder_groups(manifest, fraction=fraction):
        rule, names = found
        folders = first_few(names, MAX_LISTED_FOLDERS)
        return [
            sharing,
            f"To keep the videos of a folder together ({folders}): {command} --set data.group_by={rule}",
        ]
    return [
        f"{sharing} To define groups, add to the command --set data.group_by=similarity (videos of one "
        "scene) or --set 'data.group_by=pattern:REGULAR_EXPRESSION' (a part of the file names), or "
        "add a column `group` to the list."
    ]


def find_folder_groups(manifest: Manifest, *, fraction: float) -> tuple[str, tuple[str, ...]] | None:
    """Find folders inside or above the class folders that can be used as groups.

    Args:
        manifest: Labeled videos without groups.
        fraction: Fraction of each class that would be held out.

    Returns:
        (value of data.group_by, folder names), by which videos can be held out; None if the folders cannot be
        groups, because they are those of classes, splits or single videos, or because there is only one.
    """
    taken = {folded_name(name) for name in (*manifest.classes, *SPLIT_NAMES)}
    for level, rule in enumerate(FOLDER_RULES, start=1):
        try:
            grouped = group_by_folder(manifest, level=level)
            names = {sample.group for sample in grouped.samples if sample.group is not None}
            if taken.isdisjoint(map(folded_name, names)) and 1 < len(names) < len(grouped.samples):
                if "val" not in grouped.splits:
                    hold_out(grouped, fraction, seed=0)
                return rule, tuple(sorted(names))
        except InputError:
            continue  # these folders cannot be used as groups
    return None


def describe_image_folders(num_folders: int, num_videos: int) -> str | None:
    """Return a sentence on the frame rate of folders of images; None if there are no such folders.

    Args:
        num_folders: Number of folders of images.
        num_videos: Number of videos, including these folders.
    """
    if num_folders == 0:
        return None
    are = "is a folder" if num_folders == 1 else "are folders"
    return (
        f"{num_folders} of {plural(num_videos, 'video')} {are} of images, which have no frame rate: "
        f"{FOLDER_FPS:g} frames/s are assumed. If they were extracted at R frames/s, multiply data.clip.fps, "
        f"where it is set, by {FOLDER_FPS:g} / R"
    )
