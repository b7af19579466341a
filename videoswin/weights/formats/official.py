"""The official Video Swin Transformer code, which is mmaction 0.x with a Swin backbone added.

Names: backbone.{patch_embed,layers.i.blocks.j,layers.i.downsample,norm}, cls_head.fc_cls. A file of the
backbone alone has no prefix. Source: SwinTransformer/Video-Swin-Transformer,
mmaction/models/backbones/swin_transformer.py.
"""

from __future__ import annotations

from torch import Tensor

from videoswin.model.config import VideoSwinConfig
from videoswin.model.windows import relative_position_index
from videoswin.weights.formats import Renamed, StateDict, is_buffer, patch_rank, rename

NAME = "official Video Swin (mmaction 0.x)"


def recognizes(state_dict: StateDict) -> bool:
    return has_layers(state_dict) and not has_norm3(state_dict)


def to_videoswin(state_dict: StateDict) -> Renamed:
    return rename(state_dict, our_name)


def from_videoswin(weights: StateDict, config: VideoSwinConfig) -> dict[str, Tensor]:
    """The state dict that the official recognizer loads strictly, buffers included."""
    renamed = {_official_name(key): tensor for key, tensor in weights.items()}
    return with_position_index(renamed, config)


def our_name(key: str) -> str | None:
    """`backbone.layers.0.blocks.0.norm1.weight` -> `stages.0.blocks.0.norm1.weight`."""
    if is_buffer(key):
        return None
    key = key.removeprefix("backbone.")
    if key.startswith("layers."):
        return "stages." + key.removeprefix("layers.")
    if key.startswith("cls_head.fc_cls."):
        return "head." + key.removeprefix("cls_head.fc_cls.")
    return key if key.startswith(("patch_embed.", "norm.", "head.")) else None


def has_layers(state_dict: StateDict) -> bool:
    """True for a video backbone made of `layers`, with or without the prefix."""
    return any(
        patch_rank(state_dict, f"{prefix}patch_embed.proj.weight") == 5
        and any(key.startswith(f"{prefix}layers.0.blocks.") for key in state_dict)
        for prefix in ("backbone.", "")
    )


def has_norm3(state_dict: StateDict) -> bool:
    """True where the last norm is called norm3, which is all that tells mmaction2 1.x from mmaction 0.x."""
    return "backbone.norm3.weight" in state_dict or "norm3.weight" in state_dict


def with_position_index(state_dict: dict[str, Tensor], config: VideoSwinConfig) -> dict[str, Tensor]:
    """Add the (N, N) int64 lookup that peers keep beside every bias table, one tensor shared by all."""
    index = relative_position_index(config.window, config.window)
    table, buffer = "relative_position_bias_table", "relative_position_index"
    buffers = {key.replace(table, buffer): index for key in state_dict if key.endswith(table)}
    return state_dict | buffers


def _official_name(key: str) -> str:
    if key.startswith("head."):
        return "cls_head.fc_cls." + key.removeprefix("head.")
    return "backbone." + ("layers." + key.removeprefix("stages.") if key.startswith("stages.") else key)
