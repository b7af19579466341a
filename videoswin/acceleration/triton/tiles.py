"""How the work of a kernel is cut into programs and tiles: plain numbers, no Triton."""

from __future__ import annotations

from dataclasses import dataclass

import torch

CHUNK = 128
"""Windows whose queries, keys and values should fit into the second-level cache (Swin-T, stage 1: 29 MB)."""


@dataclass(frozen=True, kw_only=True)
class Tiles:
    """Sizes of one kernel's tiles; all are powers of two."""

    rows: int
    """Tokens that a program works for, at least 16."""
    columns: int
    """Tokens on the other side of the logits, or channels of a layer, that it sees together; 16 to 128."""
    warps: int
    """Warps of a program."""
    stages: int
    """Tiles on their way from memory at a time."""
    windows: int = 1
    """Windows that a program does one after the other."""


@dataclass(frozen=True, kw_only=True)
class BackwardTiles:
    """Sizes for the three kernels of the backward pass."""

    query: Tiles
    key: Tiles
    bias: Tiles


def forward_tiles(dtype: torch.dtype) -> Tiles:
    """What the forward kernel uses unless told otherwise: the largest without spills on sm_90 that leave room
    for several programs on a multiprocessor, by what the compiler says; times are not measured yet."""
    if dtype == torch.float32:  # without tensor cores large tiles run out of registers
        return Tiles(rows=32, columns=32, warps=4, stages=1)
    return Tiles(rows=64, columns=64, warps=4, stages=3)


def backward_tiles(dtype: torch.dtype) -> BackwardTiles:
    """The same for the backward pass."""
    if dtype == torch.float32:
        small = Tiles(rows=32, columns=32, warps=4, stages=1)
        return BackwardTiles(query=small, key=small, bias=small)
    return BackwardTiles(
        query=Tiles(rows=64, columns=64, warps=4, stages=2),
        key=Tiles(rows=64, columns=32, warps=4, stages=2),
        bias=Tiles(rows=64, columns=32, warps=4, stages=2),
    )


def linear_tiles(channels: int, dtype: torch.dtype) -> Tiles:
    """The same for linear layers; rows are tokens, many at a time, as every program reads all weights."""
    if dtype == torch.float32:
        return Tiles(rows=32, columns=32, warps=4, stages=1)
    if channels <= 192:
        return Tiles(rows=128, columns=64 if channels <= 128 else 32, warps=8, stages=2)
    return Tiles(rows=64, columns=32, warps=8, stages=2)


def channel_parts(channels: int) -> tuple[int, int]:
    """Channels as the largest power of two in them and the rest; ValueError if `takes_channels` says no."""
    if not takes_channels(channels):
        raise ValueError(f"no tiles for {channels} channels, which are not two powers of two from 16 up")
    main = 1 << (channels.bit_length() - 1)
    return main, channels - main


def takes_channels(channels: int) -> bool:
    """Whether channels are a power of two or a sum of two, and tiles of a tensor core fit into each."""
    rest = channels - (1 << (channels.bit_length() - 1))
    return channels >= 16 and rest & (rest - 1) == 0 and (rest == 0 or rest >= 16)


def padded_length(n: int) -> int:
    """Columns of the logits of n tokens: the next multiple of 16, the shortest tile of a tensor core."""
    return -(-n // 16) * 16


def rows_within(n: int, rows: int) -> int:
    """`rows`, or fewer if all n tokens fit into a smaller tile."""
    return min(rows, _power_of_two(n))


def tail_rows(n: int, rows: int) -> int:
    """Rows of the last tile: just large enough for what is left of n tokens; 392 = 6 * 64 + 8 gives 16."""
    return _power_of_two(n % rows or rows)


def _power_of_two(n: int) -> int:
    return max(16, 1 << (n - 1).bit_length())
