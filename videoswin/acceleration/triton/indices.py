"""Index arithmetic of all kernels: from tokens of a shifted window to tokens of the grid.

Windows are those of the paper's grid after the cyclic roll, but the grid is not rolled: indices are mapped
back. Only the last window along a shifted axis wraps around, and only there are pairs that must not attend to
each other.

Legend: B batch, D H W token grid, N tokens per window, d channels per head; place: 0 to N - 1, the index of a
token in its window, row-major.

Triton reads annotations when it compiles, so these files have no `from __future__ import annotations`.
"""

import triton
import triton.language as tl


@triton.jit
def turn(program, windows, parts, CHUNK: tl.constexpr):
    """Return (window, part) of a program; all windows of a chunk are processed part by part.

    Programs that run concurrently then read the same tile of the bias, and the keys and values of a chunk
    stay in the L2 cache until its last part is done.
    """
    chunk = program // (CHUNK * parts)
    inside = program - chunk * (CHUNK * parts)
    size = tl.minimum(CHUNK, windows - chunk * CHUNK)
    return chunk * CHUNK + inside % size, inside // size


@triton.jit
def corner_of(window, grid, WINDOW: tl.constexpr, SHIFT: tl.constexpr):
    """Return the first token of the window's clip (int64), its corner on the grid, and whether it wraps."""
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
    """Return the token of the clip at each place of a window, and its region (0 to 7) in a wrapped window."""
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
    """Return pointers (tokens, d) to one head's channels of tokens; `start` points to those of token 0."""
    return start + token.to(tl.int64)[:, None] * stride + tl.arange(0, HEAD_DIM)[None, :]


@triton.jit
def load_rows(start, token, valid, stride, HEAD_DIM: tl.constexpr):
    """Load one head's channels of tokens, (tokens, d), with zeros where not valid."""
    return tl.load(rows_of(start, token, stride, HEAD_DIM), mask=valid[:, None], other=0.0)
