"""Forward pass of window attention, without rolling, partitioning or merging the grid.

Legend: see tiles.py; all logarithms are base 2.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from videoswin.acceleration.triton.tiles import (
    CHUNK,
    Tiles,
    corner_of,
    forward_tiles,
    load_rows,
    locate,
    padded_length,
    rows_of,
    rows_within,
    tail_rows,
    turn,
)
from videoswin.model.windows import Grid

LOG2_E = 1.4426950408889634
"""Logits are base-2 logarithms, because exp2 is one instruction and exp two."""


def attention_forward(
    qkv: Tensor, bias_table: Tensor, bias_index: Tensor, window: Grid, shift: Grid, tiles: Tiles | None = None
) -> tuple[Tensor, Tensor]:
    """Compute window attention of contiguous qkv (B, D, H, W, 3, heads, head_dim).

    Args:
        qkv: (B, D, H, W, 3, heads, head_dim); the grid has whole windows only.
        bias_table: (offsets, heads).
        bias_index: (N, N) row of the bias table for each pair (query, key).
        window: Tokens of a window along time, height and width.
        shift: Shift of the windows in tokens along the same axes.
        tiles: Tile sizes; None uses the default for the type of qkv.

    Returns:
        Output (B, D, H, W, heads * head_dim), and for the backward pass the log of each row's sum of
        exponentials, float32 (B * windows, heads, N).
    """
    b, *grid, _, heads, head_dim = qkv.shape
    n = len(bias_index)
    windows = b * grid[0] * grid[1] * grid[2] // n
    tiles = tiles or forward_tiles(qkv.dtype)
    rows = rows_within(n, tiles.rows)
    out = qkv.new_empty(b, *grid, heads * head_dim)
    log_sums = qkv.new_empty(windows, heads, n, dtype=torch.float32)
    programs = triton.cdiv(windows, tiles.windows) * heads * triton.cdiv(n, rows)
    with torch.cuda.device_of(qkv):
        _forward_kernel[(programs,)](
            qkv,
            expand_bias(bias_table, bias_index, qkv.dtype),
            out,
            log_sums,
            LOG2_E * head_dim**-0.5,
            windows,
            heads,
            tuple(grid),
            WINDOW=window,
            SHIFT=shift,
            HEAD_DIM=head_dim,
            ROWS=rows,
            TAIL=tail_rows(n, rows),
            COLUMNS=tiles.columns,
            CHUNK=CHUNK,
            GROUP=tiles.windows,
            num_warps=tiles.warps,
            num_stages=tiles.stages,
        )
    return out, log_sums


@triton.jit
def _forward_kernel(
    QKV,
    BIAS,
    OUT,
    LOG_SUMS,
    scale,
    windows,
    heads,
    grid,
    WINDOW: tl.constexpr,
    SHIFT: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    ROWS: tl.constexpr,
    TAIL: tl.constexpr,
    COLUMNS: tl.constexpr,
    CHUNK: tl.constexpr,
    GROUP: tl.constexpr,
):
    """Process one tile of queries of one head in GROUP windows, one after the other."""
    N: tl.constexpr = WINDOW[0] * WINDOW[1] * WINDOW[2]
    TILES: tl.constexpr = (N + ROWS - 1) // ROWS
    group, part = turn(tl.program_id(0), tl.cdiv(windows, GROUP), heads * TILES, CHUNK)
    head, tile = part // TILES, part % TILES
    for step in range(GROUP):
        window = group * GROUP + step
        if window < windows:
            # All threads of a program take the same branch, and each branch is specialized.
            pointers = (QKV, BIAS, OUT, LOG_SUMS)
            if (tile == TILES - 1) & (TAIL < ROWS):
                _visit(
                    pointers,
                    scale,
                    window,
                    head,
                    heads,
                    tile * ROWS,
                    grid,
                    WINDOW,
                    SHIFT,
                    HEAD_DIM,
                    TAIL,
                    COLUMNS,
                )
            else:
                _visit(
                    pointers,
                    scale,
                    window,
                    head,
                    heads,
                    tile * ROWS,
                    grid,
                    WINDOW,
                    SHIFT,
                    HEAD_DIM,
                    ROWS,
                    COLUMNS,
                )


@triton.jit
def _visit(
    pointers,
    scale,
    window,
    head,
    heads,
    first,
    grid,
    WINDOW: tl.constexpr,
    SHIFT: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """Process ROWS queries of one head of one window, from index `first` on."""
    QKV, BIAS, OUT, LOG_SUMS = pointers
    N: tl.constexpr = WINDOW[0] * WINDOW[1] * WINDOW[2]
    PADDED: tl.constexpr = (N + 15) // 16 * 16
    clip, corner, wraps = corner_of(window, grid, WINDOW, SHIFT)
    work = (
        QKV + (clip * 3 * heads + head) * HEAD_DIM,
        BIAS + (head * N).to(tl.int64) * PADDED,
        OUT + (clip * heads + head) * HEAD_DIM,
        LOG_SUMS + (window.to(tl.int64) * heads + head) * N,
        scale,
        heads * HEAD_DIM,
        corner,
        grid,
    )
    if SHIFT[0] + SHIFT[1] + SHIFT[2] == 0:
        _attend(work, first, WINDOW, HEAD_DIM, ROWS, COLUMNS, False)
    elif wraps:
        _attend(work, first, WINDOW, HEAD_DIM, ROWS, COLUMNS, True)
    else:
        _attend(work, first, WINDOW, HEAD_DIM, ROWS, COLUMNS, False)


@triton.jit
def _attend(
    work,
    first,
    WINDOW: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    WRAPS: tl.constexpr,
):
    qkv, _, out, log_sums, _, channels, corner, grid = work
    N: tl.constexpr = WINDOW[0] * WINDOW[1] * WINDOW[2]
    place = first + tl.arange(0, ROWS)
    token, side = locate(place, corner, grid, WINDOW, WRAPS)
    q = load_rows(qkv, token, place < N, 3 * channels, HEAD_DIM)  # (ROWS, head_dim)
    highest = tl.full((ROWS,), float("-inf"), tl.float32)
    total = tl.zeros((ROWS,), tl.float32)
    mixed = tl.zeros((ROWS, HEAD_DIM), tl.float32)
    WHOLE: tl.constexpr = (N + 15) // 16 * 16 // COLUMNS * COLUMNS
    REST: tl.constexpr = (N + 15) // 16 * 16 - WHOLE
    for key in range(0, WHOLE, COLUMNS):
        highest, total, mixed = _see(
            q, work, place, side, key, highest, total, mixed, WINDOW, HEAD_DIM, COLUMNS, WRAPS
        )
    # The rest is a multiple of 16, split into 64, 32 and 16: 400 keys are 6 * 64 + 16, not 448.
    for step in tl.static_range(3):
        if REST & (64 >> step):
            highest, total, mixed = _see(
                q,
                work,
                place,
                side,
                WHOLE + (REST >> (7 - step) << (7 - step)),
                highest,
                total,
                mixed,
                WINDOW,
                HEAD_DIM,
                64 >> step,
                WRAPS,
            )
    # Rows beyond the last token of the window may have no keys; they are not stored.
    total = tl.where(place < N, total, 1.0)
    mixed = mixed / total[:, None]
    at = rows_of(out, token, channels, HEAD_DIM)
    tl.store(at, mixed.to(out.dtype.element_ty), mask=(place < N)[:, None])
    tl.store(log_sums + place, highest + tl.log2(total), mask=place < N)


@triton.jit
def _see(
    q,
    work,
    place,
    side,
    key,
    highest,
    total,
    mixed,
    WINDOW: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    COLUMNS: tl.constexpr,
    WRAPS: tl.constexpr,
):
    """Compute one step of the online softmax with COLUMNS more keys, from index `key` on."""
    qkv, bias, _, _, scale, channels, corner, grid = work
    N: tl.constexpr = WINDOW[0] * WINDOW[1] * WINDOW[2]
    PADDED: tl.constexpr = (N + 15) // 16 * 16
    key_place = key + tl.arange(0, COLUMNS)
    token, key_side = locate(key_place, corner, grid, WINDOW, WRAPS)
    k = load_rows(qkv + channels, token, key_place < N, 3 * channels, HEAD_DIM)  # (COLUMNS, head_dim)
    v = load_rows(qkv + 2 * channels, token, key_place < N, 3 * channels, HEAD_DIM)
    # Padded keys have a bias of -inf, so no other mask is needed.
    pair = place[:, None] * PADDED + key_place[None, :]
    pair_bias = tl.load(bias + pair, mask=(place < N)[:, None], other=0.0).to(tl.float32)
    logits = tl.dot(q, tl.trans(k), input_precision="ieee") * scale + pair_bias  # (ROWS, COLUMNS)
    if WRAPS:
        logits = tl.where(side[:, None] == key_side[None, :], logits, float("-inf"))
    new_highest = tl.maximum(highest, tl.max(logits, 1))
    # All first keys may be masked for a query of a wrapped window; -inf minus -inf would be NaN.
    level = tl.where(new_highest == float("-inf"), 0.0, new_highest)
    weights = tl.exp2(logits - level[:, None])
    kept = tl.exp2(highest - level)
    mixed = tl.dot(weights.to(v.dtype), v, mixed * kept[:, None], input_precision="ieee")
    return new_highest, total * kept + tl.sum(weights, 1), mixed


def expand_bias(bias_table: Tensor, bias_index: Tensor, dtype: torch.dtype) -> Tensor:
    """Return the bias of every pair times log2(e), (heads, N, N padded), with -inf in the padding.

    It is transposed if the index is. For bfloat16 attention it is also float16, which is eight times as
    precise with the same size; no trained bias is near its limit of 65504.

    Args:
        bias_table: (offsets, heads).
        bias_index: (N, N) row of the bias table for each pair (query, key), or its transpose.
        dtype: Type of qkv; the bias is float32 for float32, and float16 otherwise.
    """
    n, heads = len(bias_index), bias_table.shape[1]
    padded = padded_length(n)
    kept = torch.float32 if dtype == torch.float32 else torch.float16
    bias = torch.empty(heads, n, padded, dtype=kept, device=bias_table.device)
    block = 1024
    with torch.cuda.device_of(bias):
        _expand_kernel[(triton.cdiv(n * padded, block),)](
            bias_table.contiguous(),
            bias_index,
            bias,
            LOG2_E,
            heads,
            *bias_index.stride(),
            n,
            padded,
            BLOCK=block,
        )
    return bias


@triton.jit
def _expand_kernel(
    TABLE, INDEX, BIAS, log2_e, heads, query_stride, key_stride, n, padded, BLOCK: tl.constexpr
):
    """Expand BLOCK pairs for all heads, so that the index is read once."""
    pair = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    query, key = pair // padded, pair % padded
    real = (query < n) & (key < n)
    row = tl.load(INDEX + query * query_stride + key * key_stride, mask=real, other=0)
    for head in range(heads):
        bias = tl.load(TABLE + row * heads + head, mask=real, other=float("-inf")).to(tl.float32) * log2_e
        at = BIAS + (head * n).to(tl.int64) * padded + pair
        tl.store(at, bias.to(BIAS.dtype.element_ty), mask=query < n)
