"""Meta's Omnivore: the official backbone as `trunk`, another patch embedding for depth, a head for each task.

Only what video needs is read: the RGB patch embedding and the video head (the EPIC-Kitchens model has that
head alone). Source: facebookresearch/omnivore, omnivore/models/omnivore_model.py.
"""

from __future__ import annotations

from videoswin.weights.formats import Renamed, StateDict, official, patch_rank, rename

NAME = "Omnivore"
LICENSE = "CC-BY-NC-4.0"
"""Of all weights Meta published in this layout."""

_VIDEO_HEADS = ("heads.video.1.", "heads.1.")


def recognizes(state_dict: StateDict) -> bool:
    return patch_rank(state_dict, "trunk.patch_embed.proj.weight") == 5


def to_videoswin(state_dict: StateDict) -> Renamed:
    return rename(state_dict, _our_name)


def _our_name(key: str) -> str | None:
    for head in _VIDEO_HEADS:
        if key.startswith(head):
            return "head." + key.removeprefix(head)
    return official.our_name(key.removeprefix("trunk.")) if key.startswith("trunk.") else None
