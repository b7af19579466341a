"""Choose the videos to hold out for validation, in the same proportion for every class."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence

import numpy as np

from videoswin._errors import InputError


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
