"""Group videos that must not be split between training and validation: same person, place or source video.

Validation on the people and places of the training videos overestimates the accuracy. Groups come from the
`group` column of a list, from the names of folders and files, or from the similarity of the videos.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from functools import lru_cache

from videoswin._distributed import rank_and_world_size
from videoswin._errors import InputError, VideoError
from videoswin._progress import Progress
from videoswin._text import plural
from videoswin.data.check.fingerprint import examine_video, find_same_scenes
from videoswin.data.manifest import Manifest, Sample

GROUPS_SHOWN = 3

_OTHER_RULES = "use data.group_by=folder or pattern:..., or a column `group` in the list"


def make_groups(manifest: Manifest, rule: str) -> Manifest:
    r"""Return the manifest with groups by a rule in the syntax of the setting `data.group_by`.

    Args:
        manifest: Any labeled videos; existing groups are replaced, with a note.
        rule: `folder`, `folder:2` (see `group_by_folder`), `pattern:_(g\d+)_` (see `group_by_pattern`), or
            `similarity` (see `group_by_similarity`).

    Raises:
        InputError: The rule is none of these, or cannot be applied to these videos.
    """
    kind, _, argument = rule.partition(":")
    if replaced := {sample.group for sample in manifest.samples if sample.group is not None}:
        note = f"{plural(len(replaced), 'group')} of the list replaced, because data.group_by is {rule}"
        manifest = replace(manifest, notes=(*manifest.notes, f"{manifest.source}: {note}"))
    if kind == "folder" and (not argument or argument.isdecimal()):
        return group_by_folder(manifest, level=int(argument or 1))
    if kind == "pattern" and argument:
        return group_by_pattern(manifest, argument)
    if rule == "similarity":
        return group_by_similarity(manifest)
    raise InputError(
        f"data.group_by must be folder, folder:LEVEL, pattern:REGULAR_EXPRESSION or similarity, got {rule!r}"
    )


def group_by_folder(manifest: Manifest, *, level: int = 1) -> Manifest:
    """Return the manifest with the name of a folder as the group of each sample.

    Args:
        manifest: Any labeled videos; existing groups are replaced.
        level: Folder to use, >= 1: 1 is the folder of the file, 2 the folder above it, and so on. Folders of
            the same name are one group, wherever they are: `walk/kitchen/a.mp4` and `run/kitchen/b.mp4`.

    Raises:
        InputError: The level is out of range for a sample, or the folders are exactly those of the classes.
    """
    if level < 1:
        raise InputError(f"level must be >= 1, got {level}")

    def folder(sample: Sample) -> str:
        names = os.path.abspath(sample.path).split(os.sep)[1:-1]
        if len(names) < level:
            raise InputError(
                f"{sample.path}: there is no folder {plural(level, 'level')} above it: lower the level"
            )
        return names[-level]

    grouped = _with_groups(manifest, folder)
    pairs = {(sample.group, sample.labels) for sample in grouped.samples}
    groups, labels = ({pair[side] for pair in pairs} for side in (0, 1))
    if len(pairs) == len(groups) == len(labels) > 1:
        raise InputError(
            f"{manifest.source}: level {level} selects the class folders, which both sides of a split need: "
            "choose another level, or group by a pattern of file names"
        )
    return grouped


def group_by_pattern(manifest: Manifest, pattern: str) -> Manifest:
    r"""Return the manifest with a part of the file name as the group of each sample.

    Args:
        manifest: Any labeled videos; existing groups are replaced.
        pattern: Regular expression to search in the name of each file or folder of frames, including its
            suffix. The group is the text matched by its parentheses, joined by a space, or the whole match:
            `_(g\d+)_` finds `g08` in `v_Archery_g08_c01.avi`.

    Raises:
        InputError: The pattern is not a valid regular expression, or does not match every name.
    """
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        raise InputError(f"{pattern!r} is not a regular expression: {error}") from error
    names = [os.path.basename(os.path.normpath(sample.path)) for sample in manifest.samples]
    if missing := [name for name in names if not compiled.search(name)]:
        raise InputError(
            f"the pattern {pattern!r} must match every name, got {len(missing)} of {len(names)} without a "
            f"match, such as {missing[0]!r}"
        )

    def matched_text(sample: Sample) -> str:
        match = compiled.search(os.path.basename(os.path.normpath(sample.path)))
        assert match is not None
        return " ".join(text for text in match.groups() if text) or match[0]

    return _with_groups(manifest, matched_text)


def group_by_similarity(manifest: Manifest) -> Manifest:
    """Return the manifest with visually similar videos, which show the same scene, in one group.

    Eight frames of each video are compared with those of all others, patch by patch. This finds videos of one
    place by a static camera; it does not find videos of one place from two sides, or of one person in two
    places. A video that cannot be read, or is similar to no other, is a group of its own. A note has the
    number of groups and the size of the largest one.

    Args:
        manifest: Any labeled videos; existing groups are replaced.

    Raises:
        InputError: All of the videos, two or more, are in one scene.
    """
    paths = tuple(dict.fromkeys(sample.path for sample in manifest.samples))
    group_of = dict(_scenes(paths))
    sizes = Counter(group_of.values())
    largest = max(sizes.values(), default=0)
    if len(paths) > 1 and len(sizes) == 1:
        raise InputError(
            f"{manifest.source}: data.group_by=similarity finds 1 scene, with all of the {len(paths)} "
            f"videos, so none can be held out by it: {_OTHER_RULES}"
        )
    found = f"data.group_by=similarity finds {plural(len(sizes), 'scene')}, the largest with {largest}"
    note = f"{manifest.source}: {found} of {plural(len(paths), 'video')}"
    if 2 * largest > len(paths):
        note += f"; if it holds several places, {_OTHER_RULES}"
    grouped = _with_groups(manifest, lambda sample: group_of[sample.path])
    return replace(grouped, notes=(*grouped.notes, note))


@lru_cache(maxsize=8)  # choosing the settings of fine-tuning and the run itself need the same scenes
def _scenes(paths: tuple[str, ...]) -> tuple[tuple[str, str], ...]:
    """Return each path with the name of its scene, or with itself if it is similar to no other video."""
    examined = []
    with Progress("find scenes", len(paths), "videos", shown=rank_and_world_size()[0] == 0) as bar:
        for path in paths:
            with suppress(VideoError):
                examined.append(examine_video(path, lambda: None, sampled=True))
            bar.advance()
    scene_of = {path: path for path in paths}
    for number, scene in enumerate(find_same_scenes(examined), start=1):
        scene_of |= {examined[index].path: f"scene {number}" for index in scene}
    return tuple(scene_of.items())


def describe_sharing(training: Manifest, validation: Manifest) -> str:
    """Return a sentence on the groups that the validation videos share with the training videos."""
    training_groups, validation_groups = (
        {sample.group for sample in manifest.samples if sample.group is not None}
        for manifest in (training, validation)
    )
    if not training_groups or not validation_groups:
        return (
            "warning: no groups are known, so people, places and source videos may be in both training and "
            "validation, and the accuracy on new ones may be lower: add a column `group` to the list, or set "
            "data.group_by"
        )
    if shared := sorted(training_groups & validation_groups):
        names = ", ".join(shared[:GROUPS_SHOWN]) + (", ..." if len(shared) > GROUPS_SHOWN else "")
        return (
            f"warning: {len(shared)} of the {len(validation_groups)} validation groups are also in training "
            f"({names}): expect a lower accuracy on new groups"
        )
    num_training, num_validation = (
        plural(len(training_groups), "group"),
        plural(len(validation_groups), "group"),
    )
    return f"no group is in both training ({num_training}) and validation ({num_validation})"


def _with_groups(manifest: Manifest, group_of: Callable[[Sample], str]) -> Manifest:
    samples = tuple(replace(sample, group=group_of(sample).strip() or None) for sample in manifest.samples)
    return replace(manifest, samples=samples)
