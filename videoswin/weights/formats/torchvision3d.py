"""torchvision's swin3d_t, swin3d_s and swin3d_b: stages and mergings take turns in one list called features.

Source: torchvision/models/video/swin_transformer.py.
"""

from __future__ import annotations

import re

from torch import Tensor

from videoswin.model.config import VideoSwinConfig
from videoswin.weights.formats import Renamed, StateDict, is_buffer, patch_rank, rename
from videoswin.weights.formats.official import with_position_index

NAME = "torchvision Swin3D"

PART = re.compile(r"features\.(\d+)\.(.+)")
"""Place in the list, and the rest of the name."""


def recognizes(state_dict: StateDict) -> bool:
    is_video = patch_rank(state_dict, "patch_embed.proj.weight") == 5
    return is_video and any(key.startswith("features.0.") for key in state_dict)


def to_videoswin(state_dict: StateDict) -> Renamed:
    return rename(state_dict, _our_name)


def from_videoswin(weights: StateDict, config: VideoSwinConfig) -> dict[str, Tensor]:
    """The state dict that torchvision's SwinTransformer3d loads strictly, buffers included."""
    renamed = {_torchvision_name(key): tensor for key, tensor in weights.items()}
    return with_position_index(renamed, config)


def block_name(stage: int, rest: str) -> str:
    """`1`, `0.mlp.3.bias` -> `stages.1.blocks.0.mlp.fc2.bias`; the image models have the same blocks."""
    block, _, rest = rest.partition(".")
    rest = rest.replace("mlp.0.", "mlp.fc1.").replace("mlp.3.", "mlp.fc2.")
    return f"stages.{stage}.blocks.{block}.{rest}"


def _our_name(key: str) -> str | None:
    if is_buffer(key):
        return None
    if part := PART.fullmatch(key):
        stage, is_merging = divmod(int(part[1]), 2)
        return f"stages.{stage}.downsample.{part[2]}" if is_merging else block_name(stage, part[2])
    return key if key.startswith(("patch_embed.", "norm.", "head.")) else None


def _torchvision_name(key: str) -> str:
    if not key.startswith("stages."):
        return key
    _, stage, part, rest = key.split(".", 3)
    if part == "downsample":
        return f"features.{2 * int(stage) + 1}.{rest}"
    rest = rest.replace("mlp.fc1.", "mlp.0.").replace("mlp.fc2.", "mlp.3.")
    return f"features.{2 * int(stage)}.{rest}"
