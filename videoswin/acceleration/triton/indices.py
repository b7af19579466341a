"""Where the tokens of a shifted window lie on the grid: what every kernel here shares.

Legend: B batch, D H W grid of tokens, N tokens of a window, d channels of a head; place: 0 to N - 1, a token
of a window, row by row. A window is cut as if the grid had been rolled by the shift; here its places become
tokens of the grid that was not. Only a window that is last along a shifted axis wraps round, and only there
are pairs that must not see each other.

Triton reads annotations when it compiles, so none of these files postpones them.
"""

import triton
import triton.language as tl


@triton.jit
def turn(program, windows, parts, CHUNK: tl.constexpr):
    """(window, part) of a program: in chunks of windows, every part of the work for all windows of a chunk.

    Programs that run at the same time then read the same tile of the bias, and a chunk's keys and values stay
    in the second-level cache until its last part is done.
    """
    chunk = program // (CHUNK * parts)
    inside = program - chunk * (CHUNK * parts)
    size = tl.minimum(CHUNK, windows - chunk * CHUNK)
    return chunk * CHUNK + inside % size, inside // size


@triton.jit
def corner_of(window, grid, WINDOW: tl.constexpr, SHIFT: tl.constexpr):
    """First token of the window's clip (int64), its corner on the grid, and whether it wraps round."""
    D, H, W = grid
    deep, down, across = D // WINDOW[0], H // WINDOW[1], W // WINDOW[2]
    w = window % across * WINDOW[2] + SHIFT[2]
    h = window // across % down * WINDOW[1] + SHIFT[1]
    d = window // (across * down) % deep * WINDOW[0] + SHIFT[0]
    # One clip has few tokens, but a batch may have more than 2^31 numbers.
    clip = (window // (across * down * deep)).to(tl.int64) * (D * H * W)
    wraps = (d + WINDOW[0] > D) | (h + WINDOW[1] > H) | (w + WINDOW[2] > W)
    return clip, (d, h, w), wraps


@triton.jit
def locate(place, corner, grid, WINDOW: tl.constexpr, WRAPS: tl.constexpr):
    """Token of the clip at each place of a window, and on which side of the wraps it lies (0 to 7)."""
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
    """Pointers (tokens, d) to one head's channels of some tokens; `start` points to those of token 0."""
    return start + token.to(tl.int64)[:, None] * stride + tl.arange(0, HEAD_DIM)[None, :]


@triton.jit
def load_rows(start, token, valid, stride, HEAD_DIM: tl.constexpr):
    """One head's channels of some tokens, (tokens, d); zeros where not valid."""
    return tl.load(rows_of(start, token, stride, HEAD_DIM), mask=valid[:, None], other=0.0)
