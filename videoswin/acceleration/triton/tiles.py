"""Tile sizes of all kernels, and their index arithmetic: from tokens of a shifted window to the grid's.

Windows are those of the paper's grid after the cyclic roll, but the grid is not rolled: indices are mapped
back. Only the last window along a shifted axis wraps around, and only there are pairs that must not attend to
each other.

Legend: B batch, D H W token grid, N tokens per window, head_dim channels per head; place: 0 to N - 1, the
index of a token in its window, row-major.

Triton reads annotations when it compiles, so files with kernels have no `from __future__ import annotations`.
"""

from dataclasses import dataclass

import torch
import triton
import triton.language as tl

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
    """Kernel of the gradient of the queries."""
    key: Tiles
    """Kernel of the gradients of the keys and values."""
    bias: Tiles
    """Kernel of the gradient of the position bias."""


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


@triton.jit
def turn(program, windows, parts, CHUNK: tl.constexpr):
    """Return (window, part) of a program; all windows of a chunk are processed part by part.

    Programs that run concurrently then read the same tile of the bias, and the keys and values of a chunk
    stay in the L2 cache until its last part is done.

    Args:
        program: Index of the program.
        windows: Number of windows.
        parts: Number of programs per window.
        CHUNK: Windows of a chunk.
    """
    chunk = program // (CHUNK * parts)
    inside = program - chunk * (CHUNK * parts)
    size = tl.minimum(CHUNK, windows - chunk * CHUNK)
    return chunk * CHUNK + inside % size, inside // size


@triton.jit
def corner_of(window, grid, WINDOW: tl.constexpr, SHIFT: tl.constexpr):
    """Return the first token of the window's clip (int64), its corner on the grid, and whether it wraps.

    Args:
        window: Index of the window in the batch.
        grid: Tokens of a clip (D, H, W).
        WINDOW: Tokens of a window along the same axes.
        SHIFT: Shift of the windows in tokens.
    """
    D, H, W = grid
    deep, down, across = D // WINDOW[0], H // WINDOW[1], W // WINDOW[2]
    w = window % across * WINDOW[2] + SHIFT[2]
    h = window // across % down * WINDOW[1] + SHIFT[1]
    d = window // (across * down) % deep * WINDOW[0] + SHIFT[0]
    # int64, because a batch may have more than 2^31 elements.
    clip = (window // (across * down * deep)).to(tl.int64) * (D * H * W)
    wraps = (d + WINDOW[0] > D) | (h + WINDOW[1] > H) | (w + WINDOW[2] > W)
    return clip, (d, h, w), wraps


@triton.jit
def locate(place, corner, grid, WINDOW: tl.constexpr, WRAPS: tl.constexpr):
    """Return the token of the clip at each place of a window, and its region (0 to 7) in a wrapped window.

    Args:
        place: Indices of tokens in the window, 0 to N - 1.
        corner: First token of the window along each axis, as from `corner_of`.
        grid: Tokens of a clip (D, H, W).
        WINDOW: Tokens of a window along the same axes.
        WRAPS: Whether the window may extend beyond the grid, where it continues at the other end.
    """
    D, H, W = grid
    d, h, w = corner
    d += place // (WINDOW[1] * WINDOW[2])
    h += place // WINDOW[2] % WINDOW[1]
    w += place % WINDOW[2]
    side = tl.zeros_like(place)
    if WRAPS:
        side += (d >= D).to(tl.int32) + (h >= H).to(tl.int32) * 2 + (w >= W).to(tl.int32) * 4
        d = tl.where(d >= D, d - D, d)
        h = tl.where(h >= H, h - H, h)
        w = tl.where(w >= W, w - W, w)
    return (d * H + h) * W + w, side


@triton.jit
def rows_of(start, token, stride, HEAD_DIM: tl.constexpr):
    """Return pointers (tokens, head_dim) to one head's channels of tokens; `start` points to token 0.

    Args:
        start: Pointer to the head's first channel of token 0.
        token: Indices of tokens.
        stride: Elements between two tokens.
        HEAD_DIM: Channels of the head.
    """
    return start + token.to(tl.int64)[:, None] * stride + tl.arange(0, HEAD_DIM)[None, :]


@triton.jit
def load_rows(start, token, valid, stride, HEAD_DIM: tl.constexpr):
    """Load one head's channels of tokens, (tokens, head_dim), with zeros where not valid.

    Args:
        start: Pointer to the head's first channel of token 0.
        token: Indices of tokens.
        valid: Whether to load each token.
        stride: Elements between two tokens.
        HEAD_DIM: Channels of the head.
    """
    return tl.load(rows_of(start, token, stride, HEAD_DIM), mask=valid[:, None], other=0.0)
