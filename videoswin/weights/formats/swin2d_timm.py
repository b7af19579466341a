"""timm's image Swin since 0.9: merging comes at the start of a stage, and the classifier is head.fc.

Merging order and everything inside a block equal Microsoft's. Source: timm/models/swin_transformer.py,
checkpoint_filter_fn.
"""

from __future__ import annotations

import re

from videoswin.weights.formats import Renamed, StateDict, official, patch_rank, rename

NAME = "timm image Swin"

_MERGING = re.compile(r"layers\.(\d+)\.(downsample\..+)")


def recognizes(state_dict: StateDict) -> bool:
    is_image = patch_rank(state_dict, "patch_embed.proj.weight") == 4
    return (
        is_image
        and "layers.1.downsample.reduction.weight" in state_dict
        and not _merges_after_stage_0(state_dict)
    )


def to_videoswin(state_dict: StateDict) -> Renamed:
    return rename(state_dict, _our_name)


def _merges_after_stage_0(state_dict: StateDict) -> bool:
    return "layers.0.downsample.reduction.weight" in state_dict


def _our_name(key: str) -> str | None:
    if key.startswith("head.fc."):
        return "head." + key.removeprefix("head.fc.")
    if merging := _MERGING.fullmatch(key):
        return f"stages.{int(merging[1]) - 1}.{merging[2]}"
    return official.our_name(key)
