"""Which videos to hold back, so that every class is on both sides in the same proportion."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from videoswin._errors import InputError


def choose_held_out(videos_of: Mapping[str, Mapping[int, int]], part: float, seed: int) -> set[str]:
    """Choose the units to hold back, where a unit is a video or a group of videos that stay together.

    Args:
        videos_of: Unit -> class -> number of its videos of that class. The order of units does not matter.
        part: Fraction of the videos of each class to hold back, above 0 and below 1.
        seed: Another seed makes another choice.

    Returns:
        The units: of every class about `part` of the videos, but at least one unit of two or more, and not
        all. While every unit has one class, no class changes what is chosen of another. Where units have
        several, the rarest class is served first, and no class is taken from the rest altogether.

    Raises:
        InputError: `part` is out of range.
    """
    if not 0 < part < 1:
        raise InputError(f"part must be above 0 and below 1, got {part}")
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
        # A class of one unit stays with the rest: nothing is learned of it otherwise.
        if len(units) == 1:
            continue
        goal = min(max(round(part * total[label]), 1), total[label] - 1)
        count = sum(videos_of[unit][label] for unit in held.intersection(units))
        shuffled = [free[index] for index in np.random.default_rng((seed, label)).permutation(len(free))]
        for unit in shuffled:
            size = videos_of[unit][label]
            if count + size / 2 <= goal:  # it brings the count nearer to the goal
                held.add(unit)
                count += size
        if count == 0 and shuffled:
            held.add(min(shuffled, key=lambda unit: videos_of[unit][label]))
    for units in units_of.values():
        if held.issuperset(units):
            held.remove(units[0])
    return held
