"""Tile sizes of the kernels; this module does not need Triton."""

from __future__ import annotations

from dataclasses import dataclass

import torch

CHUNK = 128
"""Number of windows whose queries, keys and values should fit the L2 cache (Swin-T, stage 1: 29 MB)."""


@dataclass(frozen=True, kw_only=True)
class Tiles:
    """Tile sizes of one kernel; all are powers of two."""

    rows: int
    """Output tokens of a program, >= 16."""
    columns: int
    """Tokens on the other axis of the logits, or channels of a layer, per step; 16 to 128."""
    warps: int
    """Warps of a program."""
    stages: int
    """Stages of the software pipeline: tiles that are loaded at the same time."""
    windows: int = 1
    """Windows that a program processes one after the other."""


@dataclass(frozen=True, kw_only=True)
class BackwardTiles:
    """Tile sizes of the three kernels of the backward pass."""

    query: Tiles
    key: Tiles
    bias: Tiles


def forward_tiles(dtype: torch.dtype) -> Tiles:
    """Return the default tiles of the forward kernel.

    They are the largest without register spills on sm_90 that allow several programs per multiprocessor,
    according to the compiler; they have not been timed yet.
    """
    if dtype == torch.float32:  # without tensor cores, large tiles need too many registers
        return Tiles(rows=32, columns=32, warps=4, stages=1)
    return Tiles(rows=64, columns=64, warps=4, stages=3)


def backward_tiles(dtype: torch.dtype) -> BackwardTiles:
    """Return the default tiles of the backward kernels, chosen like those of the forward kernel."""
    if dtype == torch.float32:
        small = Tiles(rows=32, columns=32, warps=4, stages=1)
        return BackwardTiles(query=small, key=small, bias=small)
    return BackwardTiles(
        query=Tiles(rows=64, columns=64, warps=4, stages=2),
        key=Tiles(rows=64, columns=32, warps=4, stages=2),
        bias=Tiles(rows=64, columns=32, warps=4, stages=2),
    )


def linear_tiles(channels: int, dtype: torch.dtype) -> Tiles:
    """Return the default tiles of linear layers; they have many rows, because programs read all weights."""
    if dtype == torch.float32:
        return Tiles(rows=32, columns=32, warps=4, stages=1)
    if channels <= 192:
        return Tiles(rows=128, columns=64 if channels <= 128 else 32, warps=8, stages=2)
    return Tiles(rows=64, columns=32, warps=8, stages=2)


def channel_parts(channels: int) -> tuple[int, int]:
    """Split channels into their largest power of two and the rest; raise ValueError if unsupported."""
    if not takes_channels(channels):
        raise ValueError(f"channels must be one power of two >= 16 or a sum of two, got {channels}")
    main = 1 << (channels.bit_length() - 1)
    return main, channels - main


def takes_channels(channels: int) -> bool:
    """Return whether channels are a power of two >= 16 (one tensor core tile) or a sum of two of them."""
    rest = channels - (1 << (channels.bit_length() - 1))
    return channels >= 16 and rest & (rest - 1) == 0 and (rest == 0 or rest >= 16)


def padded_length(n: int) -> int:
    """Round n tokens up to a multiple of 16, the smallest tile of a tensor core."""
    return -(-n // 16) * 16


def rows_within(n: int, rows: int) -> int:
    """Return `rows`, or fewer if all n tokens fit a smaller tile."""
    return min(rows, _power_of_two(n))


def tail_rows(n: int, rows: int) -> int:
    """Return the rows of the last tile, just enough for the rest of n tokens: 392 = 6 * 64 + 8 gives 16."""
    return _power_of_two(n % rows or rows)


def _power_of_two(n: int) -> int:
    return max(16, 1 << (n - 1).bit_length())
