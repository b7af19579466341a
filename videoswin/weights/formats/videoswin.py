"""Our own names in somebody's .pth or .safetensors file."""

from __future__ import annotations

from videoswin.weights.formats import Renamed, StateDict, rename

NAME = "videoswin"

_PREFIXES = ("patch_embed.", "stages.", "norm.", "head.")


def recognizes(state_dict: StateDict) -> bool:
    return "patch_embed.proj.weight" in state_dict and any(key.startswith("stages.0.") for key in state_dict)


def to_videoswin(state_dict: StateDict) -> Renamed:
    return rename(state_dict, lambda key: key if key.startswith(_PREFIXES) else None)
