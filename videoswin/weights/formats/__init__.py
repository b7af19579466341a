"""Other libraries' names for the same tensors, one file per library.

Each file says `recognizes(state_dict)`, `to_videoswin(state_dict)`, and where we also write,
`from_videoswin(...)`. Renaming is all that happens here: an image model keeps its 2D tensors, and convert.py
inflates them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from videoswin._errors import InputError

StateDict = Mapping[str, Tensor]


@dataclass(frozen=True)
class Renamed:
    """A foreign state dict under our names."""

    weights: dict[str, Tensor]
    """Tensors by our name (see layout.py)."""
    origins: dict[str, tuple[str, ...]]
    """Our name -> the file's name, or names where several tensors were joined."""


class Format(Protocol):
    """What each module of this folder provides."""

    NAME: str
    """What a file in this layout is, for messages: "torchvision Swin3D"."""

    def recognizes(self, state_dict: StateDict) -> bool:
        """True if the names (and the rank of the patch embedding) are this library's."""

    def to_videoswin(self, state_dict: StateDict) -> Renamed:
        """The tensors that have a place in the model, under our names."""


def rename(state_dict: StateDict, our_name: Callable[[str], str | None]) -> Renamed:
    """Rename tensor by tensor; `our_name` gives None for a name that has no place in the model."""
    weights: dict[str, Tensor] = {}
    origins: dict[str, tuple[str, ...]] = {}
    for key, tensor in state_dict.items():
        ours = our_name(key)
        if ours is None:
            continue
        if ours in weights:
            raise InputError(f"it has two tensors for {ours}: {origins[ours][0]} and {key}")
        weights[ours], origins[ours] = tensor, (key,)
    return Renamed(weights, origins)


def is_buffer(key: str) -> bool:
    """True for constants that peers store and we compute."""
    return key.endswith((".relative_position_index", ".attn_mask"))


def patch_rank(state_dict: StateDict, key: str) -> int:
    """Rank of the patch embedding's kernel: 5 in a video model, 4 in an image model, 0 without `key`."""
    return state_dict[key].ndim if key in state_dict else 0
