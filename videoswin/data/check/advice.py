"""What labeled videos mean for training on them, in sentences: their classes, their groups and their rate."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from videoswin._errors import InputError
from videoswin._text import plural
from videoswin.data.groups import group_by_folder
from videoswin.data.lists.rows import SPLIT_NAMES, folded_name
from videoswin.data.manifest import Manifest, Sample, hold_out
from videoswin.video.reader import FOLDER_FPS

FOLDER_RULES: Final = ("folder", "folder:2")
"""Values of data.group_by for the folder of a file and the one above it."""
FOLDERS_SHOWN: Final = 3


def training_samples(manifest: Manifest) -> tuple[Sample, ...]:
    """Return the samples that training would learn from: the split `train`, else those without a split."""
    splits = {sample.split for sample in manifest.samples}
    wanted = "train" if "train" in splits else None
    return tuple(sample for sample in manifest.samples if sample.split == wanted)


def describe_single_class(manifest: Manifest, training: Sequence[Sample]) -> str | None:
    """Return a sentence about training samples that are all of one class; None if they are of several."""
    if manifest.multi_label or len({sample.labels for sample in training}) != 1:
        return None
    return (
        "at least 2 classes with training videos are required, got 1 "
        f"({manifest.classes[training[0].labels[0]]}): a model that knows one answer learns nothing; add "
        "videos that show something else as another class"
    )


def describe_missing_groups(manifest: Manifest, command: str, *, fraction: float) -> list[str]:
    """Return sentences about what training and validation may share, and how to make groups.

    Args:
        manifest: Labeled videos without groups.
        command: The command that trains on them.
        fraction: Part of each class that would be held out.
    """
    sharing = (
        "No groups are known, so training and validation may share people, places and source videos, and new "
        "ones may be recognized less well than validation says."
    )
    if found := find_folder_groups(manifest, fraction=fraction):
        rule, names = found
        folders = ", ".join(names[:FOLDERS_SHOWN]) + ", ..." * (len(names) > FOLDERS_SHOWN)
        return [
            sharing,
            f"To keep the videos of a folder together ({folders}): {command} --set data.group_by={rule}",
        ]
    return [
        f"{sharing} To make groups, add to the command --set data.group_by=similarity (videos of one "
        "scene) or --set 'data.group_by=pattern:REGULAR_EXPRESSION' (a part of the file names), or "
        "add a column `group` to the list."
    ]


def find_folder_groups(manifest: Manifest, *, fraction: float) -> tuple[str, tuple[str, ...]] | None:
    """Return the rule that makes groups of folders inside or above those of the classes, and their names.

    Args:
        manifest: Labeled videos without groups.
        fraction: Part of each class that would be held out.

    Returns:
        A value of data.group_by by which videos can be held out; None if no folders are like groups:
        if they are those of the classes, of splits or of single videos, or if there is just one.
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
            continue  # these folders do not make groups
    return None


def describe_image_folders(num_folders: int, num_videos: int) -> str | None:
    """Return a sentence about the frame rate of folders of images; None if there are no such folders."""
    if num_folders == 0:
        return None
    are = "is a folder" if num_folders == 1 else "are folders"
    return (
        f"{num_folders} of {plural(num_videos, 'video')} {are} of images, which have no frame rate: "
        f"{FOLDER_FPS:g} frames/s are assumed. If they were extracted at R frames/s, multiply data.clip.fps, "
        f"where it is set, by {FOLDER_FPS:g} / R"
    )
