"""torchvision's image swin_t, swin_s and swin_b: as its video models, with the patch embedding in features.0.

Source: torchvision/models/swin_transformer.py.
"""

from __future__ import annotations

from videoswin.weights.formats import Renamed, StateDict, is_buffer, patch_rank, rename
from videoswin.weights.formats.torchvision3d import PART, block_name

NAME = "torchvision image Swin"

_PATCH_EMBED = {"0": "proj", "2": "norm"}


def recognizes(state_dict: StateDict) -> bool:
    return patch_rank(state_dict, "features.0.0.weight") == 4 and "features.1.0.norm1.weight" in state_dict


def to_videoswin(state_dict: StateDict) -> Renamed:
    return rename(state_dict, _our_name)


def _our_name(key: str) -> str | None:
    if is_buffer(key):
        return None
    if part := PART.fullmatch(key):
        place, rest = part.groups()
        if place == "0":
            layer, _, rest = rest.partition(".")
            return f"patch_embed.{_PATCH_EMBED[layer]}.{rest}" if layer in _PATCH_EMBED else None
        stage, is_blocks = divmod(int(place), 2)
        return block_name(stage, rest) if is_blocks else f"stages.{stage - 1}.downsample.{rest}"
    return key if key.startswith(("norm.", "head.")) else None
