"""Split labeled videos into training and validation: held-out videos, and groups that must not be split.

A group is what videos share: a person, a place or the source video. Validation on the people and places of
the training videos overestimates the accuracy. Groups come from the `group` column of a list, from the names
of folders and files, or from the similarity of the videos.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import lru_cache
from typing import Final

import numpy as np

from videoswin._distributed import rank_and_world_size
from videoswin._errors import InputError, VideoError
from videoswin._progress import Progress
from videoswin._text import first_few, plural
from videoswin.data.fingerprint import examine_video, find_same_scenes
from videoswin.data.manifest import Manifest, Sample

MAX_LISTED_GROUPS: Final = 3
"""Largest number of group names in a sentence."""

_OTHER_RULES: Final = "use data.group_by=folder or pattern:..., or a column `group` in the list"


def hold_out(manifest: Manifest, fraction: float, *, seed: int) -> tuple[Manifest, Manifest]:
    """Split a manifest into a training part and a held-out validation part, stratified by class.

    A class of two or more videos has at least one video on each side; the only video of a class stays in
    training. If videos have several labels, training has priority. A file and its parts are on one side, and
    so are all samples of a group; a class with a single group is treated like a class with a single video.

    Args:
        manifest: Labeled videos to split.
        fraction: Fraction of each class to hold out, > 0 and < 1.
        seed: Seed of the random choice; the same seed gives the same split.

    Returns:
        (training, validation). A note of the validation part names classes that it does not contain.

    Raises:
        InputError: The fraction is out of range, or nothing can be held out.
    """
    units = split_units(
        [sample.path for sample in manifest.samples], [sample.group for sample in manifest.samples]
    )
    videos: dict[str, dict[int, set[str]]] = {}
    for sample, unit in zip(manifest.samples, units, strict=True):
        # Samples without a label count as one additional class.
        for label in sample.labels or (len(manifest.classes),):
            videos.setdefault(unit, {}).setdefault(label, set()).add(os.path.normpath(sample.path))
    counts = {unit: {label: len(paths) for label, paths in of.items()} for unit, of in videos.items()}
    held = choose_held_out(counts, fraction, seed)
    unit_noun = "group" if any(sample.group for sample in manifest.samples) else "video"
    if not held:
        cure = "choose other groups (data.group_by), or " if unit_noun == "group" else ""
        raise InputError(
            f"{manifest.source}: no {unit_noun} can be held out for validation, because each is the only one "
            f"of a class ({_describe_sizes(units, unit_noun)}); {cure}to train without validation set "
            "data.val_fraction=0"
        )
    sides: tuple[list[Sample], list[Sample]] = ([], [])
    for sample, unit in zip(manifest.samples, units, strict=True):
        sides[unit in held].append(sample)
    training, held_out = (replace(manifest, samples=tuple(side)) for side in sides)
    missing = {label for sample in training.samples for label in sample.labels} - {
        label for sample in held_out.samples for label in sample.labels
    }
    if missing:
        names = first_few([repr(manifest.classes[label]) for label in sorted(missing)], 5)
        note = (
            f"{plural(len(missing), 'class')} not in the validation split, because there is no second "
            f"{unit_noun}: {names}"
        )
        held_out = replace(held_out, notes=(*held_out.notes, f"{manifest.source}: {note}"))
    return training, held_out


def _describe_sizes(units: list[str], unit_noun: str) -> str:
    """Return the number of groups or videos and, for groups, the size of the largest one."""
    sizes = Counter(units)
    largest = f", the largest with {max(sizes.values())} of {plural(len(units), 'sample')}"
    return plural(len(sizes), unit_noun) + largest * (unit_noun == "group")


def choose_held_out(videos_of: Mapping[str, Mapping[int, int]], fraction: float, seed: int) -> set[str]:
    """Choose the units to hold out, where a unit is a video or a group of videos that stay together.

    Args:
        videos_of: Unit -> class -> number of its videos of that class. The order of units does not matter.
        fraction: Fraction of the videos of each class to hold out, > 0 and < 1.
        seed: Seed of the random choice.

    Returns:
        The held-out units: about `fraction` of the videos of every class, at least one unit of a class with
        two or more units, and never all units of a class. If every unit has one class, the choices of the
        classes are independent of each other. If units have several classes, the rarest class is chosen
        first.

    Raises:
        InputError: `fraction` is out of range.
    """
    if not 0 < fraction < 1:
        raise InputError(f"fraction must be > 0 and < 1, got {fraction}")
    units_of: dict[int, list[str]] = {}
    for unit in sorted(videos_of):
        for label in videos_of[unit]:
            units_of.setdefault(label, []).append(unit)
    total = {label: sum(videos_of[unit][label] for unit in units) for label, units in units_of.items()}
    held: set[str] = set()
    decided: set[str] = set()
    for label in sorted(units_of, key=lambda label: (total[label], label)):
        units = units_of[label]
        free = [unit for unit in units if unit not in decided]
        decided.update(free)
        # The only unit of a class stays in training: the class could not be trained without it.
        if len(units) == 1:
            continue
        target = min(max(round(fraction * total[label]), 1), total[label] - 1)
        count = sum(videos_of[unit][label] for unit in held.intersection(units))
        shuffled = [free[index] for index in np.random.default_rng((seed, label)).permutation(len(free))]
        for unit in shuffled:
            size = videos_of[unit][label]
            if count + size / 2 <= target:  # adding the unit brings the count closer to the target
                held.add(unit)
                count += size
        if count == 0 and shuffled:
            held.add(min(shuffled, key=lambda unit: videos_of[unit][label]))
    for units in units_of.values():
        if held.issuperset(units):
            held.remove(units[0])
    return held


def split_units(paths: Sequence[str], groups: Sequence[str | None]) -> list[str]:
    """Return the name of the split unit of each sample: samples connected by files or groups share one.

    Args:
        paths: File of each sample, at least one.
        groups: Group of each sample; None if unknown.
    """
    parent: dict[tuple[str, str], tuple[str, str]] = {}

    def root_of(node: tuple[str, str]) -> tuple[str, str]:
        while (above := parent.setdefault(node, node)) != node:
            parent[node] = parent[above]
            node = above
        return node

    absolute = [os.path.abspath(path) for path in paths]
    # Relative paths, so that the choice does not depend on the location of the videos or its spelling.
    folder = os.path.commonpath(map(os.path.dirname, absolute))
    nodes = [("file", os.path.relpath(path, folder)) for path in absolute]
    for node, group in zip(nodes, groups, strict=True):
        if group is not None:
            parent[root_of(node)] = root_of(("group", group))
    members: dict[tuple[str, str], str] = {}
    for node, group in zip(nodes, groups, strict=True):
        # The smallest name of the unit, so that names do not depend on the order of the samples.
        name = node[1] if group is None else group
        members[root_of(node)] = min(members.get(root_of(node), name), name)
    return [members[root_of(node)] for node in nodes]


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
    """Return a sentence on the groups that the validation videos share with the training videos.

    Args:
        training: The videos to train on.
        validation: The videos to validate on.
    """
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
        names = first_few(shared, MAX_LISTED_GROUPS)
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
