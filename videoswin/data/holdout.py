"""Which files to hold back, so that every class is on both sides in the same proportion."""

from __future__ import annotations

from collections.abc import Mapping, Set

import numpy as np


def choose_held_out(labels_of: Mapping[str, Set[int]], part: float, seed: int) -> set[str]:
    """The files to hold back: of every class about `part`, but at least one file of two or more, and not all.

    `labels_of` says the classes, 0 or more, of each file. The order of the files does not matter, and while
    every file has one class, no class changes what is chosen of another. Where files have several, the rarest
    class is served first, and no class is taken from the rest altogether.
    """
    files_of: dict[int, list[str]] = {}
    for file in sorted(labels_of):
        for label in labels_of[file]:
            files_of.setdefault(label, []).append(file)
    held: set[str] = set()
    decided: set[str] = set()
    for label in sorted(files_of, key=lambda label: (len(files_of[label]), label)):
        files = files_of[label]
        # A class of one file stays with the rest: nothing is learned of it otherwise.
        wanted = min(max(round(part * len(files)), 1), len(files) - 1)
        free = [file for file in files if file not in decided]
        missing = max(wanted - len(held.intersection(files)), 0)
        shuffled = np.random.default_rng((seed, label)).permutation(len(free))
        held.update(free[index] for index in shuffled[:missing])
        decided.update(free)
    for files in files_of.values():
        if held.issuperset(files):
            held.remove(files[0])
    return held
