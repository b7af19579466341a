"""MMAction2 1.x: the official names, but the last norm is called norm3.

Source: open-mmlab/mmaction2 v1.2.0, mmaction/models/backbones/swin.py.
"""

from __future__ import annotations

from torch import Tensor

from videoswin.model.config import VideoSwinConfig
from videoswin.weights.formats import Renamed, StateDict, official, rename

NAME = "mmaction2 1.x Swin"


def recognizes(state_dict: StateDict) -> bool:
    return official.has_layers(state_dict) and official.has_norm3(state_dict)


def to_videoswin(state_dict: StateDict) -> Renamed:
    return rename(state_dict, _our_name)


def from_videoswin(weights: StateDict, config: VideoSwinConfig) -> dict[str, Tensor]:
    """The state dict that MMAction2's recognizer loads strictly, buffers included."""
    renamed = official.from_videoswin(weights, config)
    return {key.replace("backbone.norm.", "backbone.norm3."): tensor for key, tensor in renamed.items()}


def _our_name(key: str) -> str | None:
    bare = key.removeprefix("backbone.")
    return "norm." + bare.removeprefix("norm3.") if bare.startswith("norm3.") else official.our_name(key)
