"""Groups of videos that must not be split between training and validation: the same person, place or film.

A model that is validated on the people and places it was trained on looks better than it is. Groups come from
the `group` column of a list, from the names of folders and files, or from what the videos look like.
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
from videoswin._errors import InputError
from videoswin._progress import Progress
from videoswin._text import plural
from videoswin.data.check.fingerprint import examine_video, find_same_scenes
from videoswin.data.manifest import Manifest, Sample
from videoswin.video.reader import VideoError

GROUPS_SHOWN = 3

_OTHER_RULES = "use data.group_by=folder or pattern:..., or a column `group` in the list"


def make_groups(manifest: Manifest, rule: str) -> Manifest:
    r"""Return the manifest with groups made by a rule, as the setting `data.group_by` states it.

    Args:
        manifest: Any labeled videos; groups that they have are replaced, which a note says.
        rule: `folder`, `folder:2` (see `group_by_folder`), `pattern:_(g\d+)_` (see `group_by_pattern`), or
            `similarity` (see `group_by_similarity`).

    Raises:
        InputError: The rule is none of these, or cannot be applied to these videos.
    """
    kind, _, argument = rule.partition(":")
    if had := {sample.group for sample in manifest.samples if sample.group is not None}:
        note = f"{plural(len(had), 'group')} of the list replaced, as data.group_by is {rule}"
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
        manifest: Any labeled videos; groups that they have are replaced.
        level: Which folder: 1 is the one that the file lies in, 2 the one above it, and so on. Folders of one
            name are one group, wherever they are: `walk/kitchen/a.mp4` and `run/kitchen/b.mp4`.

    Raises:
        InputError: The folder of some sample has no name, or the folders are just those of the classes.
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
            f"{manifest.source}: level {level} gives the folders of the classes, which both sides of a "
            "split need: choose another level, or group by a pattern on names"
        )
    return grouped


def group_by_pattern(manifest: Manifest, pattern: str) -> Manifest:
    r"""Return the manifest with a part of the file name as the group of each sample.

    Args:
        manifest: Any labeled videos; groups that they have are replaced.
        pattern: A regular expression that is searched in the name of each file or folder of frames, suffix
            included. The group is what its parentheses match, joined by a space, or else the whole match:
            `_(g\d+)_` finds `g08` in `v_Archery_g08_c01.avi`.

    Raises:
        InputError: The pattern is no regular expression, or is not found in some name.
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

    def part(sample: Sample) -> str:
        match = compiled.search(os.path.basename(os.path.normpath(sample.path)))
        assert match is not None
        return " ".join(text for text in match.groups() if text) or match[0]

    return _with_groups(manifest, part)


def group_by_similarity(manifest: Manifest) -> Manifest:
    """Return the manifest with videos of one scene in one group, as far as their pictures tell.

    Eight frames of each video are compared with those of all others, patch by patch. Found are films of one
    place by a camera that stands still; not found are those of one place from two sides, or of one person in
    two places. A video that cannot be read, or is like no other, is a group of its own. A note says how many
    groups were found, and how large the largest is.

    Args:
        manifest: Any labeled videos; groups that they have are replaced.

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


@lru_cache(maxsize=8)  # the choices of fine-tuning and the run itself ask for the same
def _scenes(paths: tuple[str, ...]) -> tuple[tuple[str, str], ...]:
    """Each path with the name of its scene, or with itself if it is like no other."""
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
    """Return a sentence about what the videos to validate on share with those to learn from."""
    theirs, ours = (
        {sample.group for sample in manifest.samples if sample.group is not None}
        for manifest in (training, validation)
    )
    if not theirs or not ours:
        return (
            "warning: no groups are known, so people, places and source videos may be in both training and "
            "validation, and new ones may be recognized less well: name what videos share in a column "
            "`group`, or set data.group_by"
        )
    if shared := sorted(theirs & ours):
        names = ", ".join(shared[:GROUPS_SHOWN]) + (", ..." if len(shared) > GROUPS_SHOWN else "")
        return (
            f"warning: {len(shared)} of the {len(ours)} groups in validation are in training too ({names}): "
            "expect less on new ones"
        )
    learned, validated = plural(len(theirs), "group"), plural(len(ours), "group")
    return f"no group is in both training ({learned}) and validation ({validated})"


def _with_groups(manifest: Manifest, group_of: Callable[[Sample], str]) -> Manifest:
    samples = tuple(replace(sample, group=group_of(sample).strip() or None) for sample in manifest.samples)
    return replace(manifest, samples=samples)
