"""Backward pass of window attention: three deterministic kernels that write each value once, without atomics.

Legend: see tiles.py; all logarithms are base 2. weights: softmax of the logits, recomputed from their
log-sums; slope: gradient of a logit, weights * (upstream v - delta); delta: sum of upstream * out over the
channels of a head.
"""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from videoswin.acceleration.triton.forward import LOG2_E, expand_bias
from videoswin.acceleration.triton.tiles import (
    CHUNK,
    BackwardTiles,
    Tiles,
    backward_tiles,
    corner_of,
    load_rows,
    locate,
    rows_of,
    rows_within,
    turn,
)
from videoswin.model.windows import Grid

BIAS_PROGRAMS = 1024
"""Number of programs that share the sum over windows; constant, so that all GPUs add in the same order."""


def attention_backward(
    upstream: Tensor,
    qkv: Tensor,
    bias_table: Tensor,
    bias_index: Tensor,
    out: Tensor,
    log_sums: Tensor,
    window: Grid,
    shift: Grid,
    tiles: BackwardTiles | None = None,
) -> tuple[Tensor, Tensor]:
    """Return the gradients of qkv, in its type, and of the bias table, in float32.

    All arguments are contiguous; their shapes are those of attention_forward.

    Args:
        upstream: Gradient of the output, (B, D, H, W, heads * head_dim).
        qkv: (B, D, H, W, 3, heads, head_dim).
        bias_table: (offsets, heads).
        bias_index: (N, N) row of the bias table for each pair (query, key).
        out: Output of the forward pass, (B, D, H, W, heads * head_dim).
        log_sums: Log-sums of the forward pass, (B * windows, heads, N).
        window: Tokens of a window along time, height and width.
        shift: Shift of the windows in tokens along the same axes.
        tiles: Tile sizes; None uses the default for the type of qkv.
    """
    windows, heads, n = log_sums.shape
    head_dim = qkv.shape[-1]
    tiles = tiles or backward_tiles(qkv.dtype)
    bias = expand_bias(bias_table, bias_index, qkv.dtype)
    gradient = torch.empty_like(qkv)
    delta = torch.empty_like(log_sums)

    def launch(kernel: Any, tile: Tiles, programs: int, *pointers: Tensor) -> None:
        with torch.cuda.device_of(qkv):
            kernel[(programs,)](
                *pointers,
                LOG2_E * head_dim**-0.5,
                head_dim**-0.5,
                windows,
                heads,
                tuple(qkv.shape[1:4]),
                WINDOW=window,
                SHIFT=shift,
                HEAD_DIM=head_dim,
                ROWS=rows_within(n, tile.rows),
                COLUMNS=rows_within(n, tile.columns),
                CHUNK=CHUNK,
                num_warps=tile.warps,
                num_stages=tile.stages,
            )

    def parts(length: int) -> int:
        return -(-n // rows_within(n, length))

    # The first kernel has both factors of delta, and stores it for the others.
    programs = windows * heads * parts(tiles.query.rows)
    launch(_query_kernel, tiles.query, programs, qkv, bias, upstream, out, log_sums, delta, gradient)
    by_key = expand_bias(bias_table, bias_index.T, qkv.dtype)
    programs = windows * heads * parts(tiles.key.rows)
    launch(_key_kernel, tiles.key, programs, qkv, by_key, upstream, log_sums, delta, gradient)
    programs = heads * parts(tiles.bias.rows) * parts(tiles.bias.columns)
    groups = max(1, min(windows, BIAS_PROGRAMS // programs))
    pairs = qkv.new_empty(groups, heads, n, n, dtype=torch.float32)
    launch(_bias_kernel, tiles.bias, groups * programs, qkv, bias, upstream, log_sums, delta, pairs)
    return gradient, table_gradient(pairs.sum(0), bias_index, len(bias_table))


@triton.jit
def _query_kernel(
    QKV,
    BIAS,
    UPSTREAM,
    OUT,
    LOG_SUMS,
    DELTA,
    GRADIENT,
    log_scale,
    scale,
    windows,
    heads,
    grid,
    WINDOW: tl.constexpr,
    SHIFT: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    CHUNK: tl.constexpr,
):
    """Compute the gradient of one tile of queries of one head and window over all keys, and delta."""
    N: tl.constexpr = WINDOW[0] * WINDOW[1] * WINDOW[2]
    PADDED: tl.constexpr = (N + 15) // 16 * 16
    SHIFTED: tl.constexpr = SHIFT[0] + SHIFT[1] + SHIFT[2] > 0
    TILES: tl.constexpr = (N + ROWS - 1) // ROWS
    window, part = turn(tl.program_id(0), windows, heads * TILES, CHUNK)
    head, first = part // TILES, part % TILES * ROWS
    clip, corner, _ = corner_of(window, grid, WINDOW, SHIFT)
    channels = heads * HEAD_DIM
    qkv = QKV + (clip * 3 * heads + head) * HEAD_DIM
    bias = BIAS + (head * N).to(tl.int64) * PADDED
    sums = (window.to(tl.int64) * heads + head) * N
    place = first + tl.arange(0, ROWS)
    token, side = locate(place, corner, grid, WINDOW, SHIFTED)
    real = place < N
    q = load_rows(qkv, token, real, 3 * channels, HEAD_DIM)  # (ROWS, head_dim)
    shared = (clip * heads + head) * HEAD_DIM
    up = load_rows(UPSTREAM + shared, token, real, channels, HEAD_DIM)  # (ROWS, head_dim)
    out = load_rows(OUT + shared, token, real, channels, HEAD_DIM)
    delta = tl.sum(up.to(tl.float32) * out.to(tl.float32), 1)
    tl.store(DELTA + sums + place, delta, mask=real)
    log_sum = tl.load(LOG_SUMS + sums + place, mask=real, other=0.0)
    total = tl.zeros((ROWS, HEAD_DIM), tl.float32)
    for start in range(0, N, COLUMNS):
        key = start + tl.arange(0, COLUMNS)
        key_token, key_side = locate(key, corner, grid, WINDOW, SHIFTED)
        k = load_rows(qkv + channels, key_token, key < N, 3 * channels, HEAD_DIM)  # (COLUMNS, head_dim)
        v = load_rows(qkv + 2 * channels, key_token, key < N, 3 * channels, HEAD_DIM)
        pair = place[:, None] * PADDED + key[None, :]
        known = real[:, None] & (key < PADDED)[None, :]
        logits = tl.dot(q, tl.trans(k), input_precision="ieee") * log_scale
        logits += tl.load(bias + pair, mask=known, other=float("-inf")).to(tl.float32)
        if SHIFTED:
            logits = tl.where(side[:, None] == key_side[None, :], logits, float("-inf"))
        weights = tl.exp2(logits - log_sum[:, None])  # (ROWS, COLUMNS)
        slope = weights * (tl.dot(up, tl.trans(v), input_precision="ieee") - delta[:, None])
        total = tl.dot(slope.to(k.dtype), k, total, input_precision="ieee")
    at = rows_of(GRADIENT + (clip * 3 * heads + head) * HEAD_DIM, token, 3 * channels, HEAD_DIM)
    tl.store(at, (total * scale).to(GRADIENT.dtype.element_ty), mask=real[:, None])


@triton.jit
def _key_kernel(
    QKV,
    BIAS_BY_KEY,
    UPSTREAM,
    LOG_SUMS,
    DELTA,
    GRADIENT,
    log_scale,
    scale,
    windows,
    heads,
    grid,
    WINDOW: tl.constexpr,
    SHIFT: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    CHUNK: tl.constexpr,
):
    """Compute the gradients of one tile of keys and values of one head and window over all queries.

    Logits and bias are transposed here: keys are rows and queries are columns.
    """
    N: tl.constexpr = WINDOW[0] * WINDOW[1] * WINDOW[2]
    PADDED: tl.constexpr = (N + 15) // 16 * 16
    SHIFTED: tl.constexpr = SHIFT[0] + SHIFT[1] + SHIFT[2] > 0
    TILES: tl.constexpr = (N + ROWS - 1) // ROWS
    window, part = turn(tl.program_id(0), windows, heads * TILES, CHUNK)
    head, first = part // TILES, part % TILES * ROWS
    clip, corner, _ = corner_of(window, grid, WINDOW, SHIFT)
    channels = heads * HEAD_DIM
    qkv = QKV + (clip * 3 * heads + head) * HEAD_DIM
    bias = BIAS_BY_KEY + (head * N).to(tl.int64) * PADDED
    upstream = UPSTREAM + (clip * heads + head) * HEAD_DIM
    sums = (window.to(tl.int64) * heads + head) * N
    place = first + tl.arange(0, ROWS)
    token, side = locate(place, corner, grid, WINDOW, SHIFTED)
    real = place < N
    k = load_rows(qkv + channels, token, real, 3 * channels, HEAD_DIM)  # (ROWS, head_dim)
    v = load_rows(qkv + 2 * channels, token, real, 3 * channels, HEAD_DIM)
    key_total = tl.zeros((ROWS, HEAD_DIM), tl.float32)
    value_total = tl.zeros((ROWS, HEAD_DIM), tl.float32)
    for start in range(0, N, COLUMNS):
        query = start + tl.arange(0, COLUMNS)
        query_token, query_side = locate(query, corner, grid, WINDOW, SHIFTED)
        q = load_rows(qkv, query_token, query < N, 3 * channels, HEAD_DIM)  # (COLUMNS, head_dim)
        up = load_rows(upstream, query_token, query < N, channels, HEAD_DIM)
        log_sum = tl.load(LOG_SUMS + sums + query, mask=query < N, other=0.0)
        delta = tl.load(DELTA + sums + query, mask=query < N, other=0.0)
        pair = place[:, None] * PADDED + query[None, :]
        known = real[:, None] & (query < PADDED)[None, :]
        logits = tl.dot(k, tl.trans(q), input_precision="ieee") * log_scale
        logits += tl.load(bias + pair, mask=known, other=float("-inf")).to(tl.float32)
        if SHIFTED:
            logits = tl.where(side[:, None] == query_side[None, :], logits, float("-inf"))
        weights = tl.exp2(logits - log_sum[None, :])  # (ROWS, COLUMNS)
        value_total = tl.dot(weights.to(up.dtype), up, value_total, input_precision="ieee")
        slope = weights * (tl.dot(v, tl.trans(up), input_precision="ieee") - delta[None, :])
        key_total = tl.dot(slope.to(q.dtype), q, key_total, input_precision="ieee")
    at = rows_of(GRADIENT + (clip * 3 * heads + head) * HEAD_DIM, token, 3 * channels, HEAD_DIM)
    kind = GRADIENT.dtype.element_ty
    tl.store(at + channels, (key_total * scale).to(kind), mask=real[:, None])
    tl.store(at + 2 * channels, value_total.to(kind), mask=real[:, None])


@triton.jit
def _bias_kernel(
    QKV,
    BIAS,
    UPSTREAM,
    LOG_SUMS,
    DELTA,
    PAIRS,
    log_scale,
    scale,
    windows,
    heads,
    grid,
    WINDOW: tl.constexpr,
    SHIFT: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    CHUNK: tl.constexpr,
):
    """Sum the slopes of one tile of pairs of one head over the windows of a group."""
    N: tl.constexpr = WINDOW[0] * WINDOW[1] * WINDOW[2]
    PADDED: tl.constexpr = (N + 15) // 16 * 16
    SHIFTED: tl.constexpr = SHIFT[0] + SHIFT[1] + SHIFT[2] > 0
    ROW_TILES: tl.constexpr = (N + ROWS - 1) // ROWS
    COLUMN_TILES: tl.constexpr = (N + COLUMNS - 1) // COLUMNS
    program = tl.program_id(0)
    parts = heads * ROW_TILES * COLUMN_TILES
    group, part = program // parts, program % parts
    head, tile = part // (ROW_TILES * COLUMN_TILES), part % (ROW_TILES * COLUMN_TILES)
    query = tile // COLUMN_TILES * ROWS + tl.arange(0, ROWS)
    key = tile % COLUMN_TILES * COLUMNS + tl.arange(0, COLUMNS)
    channels = heads * HEAD_DIM
    at = BIAS + (head * N).to(tl.int64) * PADDED + query[:, None] * PADDED + key[None, :]
    known = (query < N)[:, None] & (key < PADDED)[None, :]
    bias = tl.load(at, mask=known, other=float("-inf")).to(tl.float32)  # (ROWS, COLUMNS)
    total = tl.zeros((ROWS, COLUMNS), tl.float32)
    size = tl.cdiv(windows, tl.num_programs(0) // parts)
    for step in range(tl.minimum(size, windows - group * size)):
        window = group * size + step
        clip, corner, _ = corner_of(window, grid, WINDOW, SHIFT)
        qkv = QKV + (clip * 3 * heads + head) * HEAD_DIM
        upstream = UPSTREAM + (clip * heads + head) * HEAD_DIM
        sums = (window.to(tl.int64) * heads + head) * N
        token, side = locate(query, corner, grid, WINDOW, SHIFTED)
        key_token, key_side = locate(key, corner, grid, WINDOW, SHIFTED)
        q = load_rows(qkv, token, query < N, 3 * channels, HEAD_DIM)  # (ROWS, head_dim)
        up = load_rows(upstream, token, query < N, channels, HEAD_DIM)
        k = load_rows(qkv + channels, key_token, key < N, 3 * channels, HEAD_DIM)  # (COLUMNS, head_dim)
        v = load_rows(qkv + 2 * channels, key_token, key < N, 3 * channels, HEAD_DIM)
        log_sum = tl.load(LOG_SUMS + sums + query, mask=query < N, other=0.0)
        delta = tl.load(DELTA + sums + query, mask=query < N, other=0.0)
        logits = tl.dot(q, tl.trans(k), input_precision="ieee") * log_scale + bias
        if SHIFTED:
            logits = tl.where(side[:, None] == key_side[None, :], logits, float("-inf"))
        weights = tl.exp2(logits - log_sum[:, None])
        total += weights * (tl.dot(up, tl.trans(v), input_precision="ieee") - delta[:, None])
    pair = (group * heads + head).to(tl.int64) * (N * N) + query[:, None] * N + key[None, :]
    tl.store(PAIRS + pair, total, mask=(query < N)[:, None] & (key < N)[None, :])


def table_gradient(pair_gradients: Tensor, bias_index: Tensor, offsets: int) -> Tensor:
    """Reduce the gradient of every pair's bias (heads, N, N) to that of the table (offsets, heads), float32.

    The index of the pairs of one offset is built in every call, because a cache filled during the capture of
    a CUDA graph would outlive the graph's memory.

    Args:
        pair_gradients: (heads, N, N).
        bias_index: (N, N) row of the bias table for each pair (query, key).
        offsets: Number of rows of the bias table.
    """
    heads, n, _ = pair_gradients.shape
    key_at = torch.full((offsets, n), -1, dtype=torch.int32, device=bias_index.device)
    gradient = torch.empty(offsets, heads, dtype=torch.float32, device=bias_index.device)
    block = 1024
    with torch.cuda.device_of(gradient):
        _invert_kernel[(triton.cdiv(n * n, block),)](bias_index.contiguous(), key_at, n, BLOCK=block)
        _collect_kernel[(offsets, heads)](pair_gradients, key_at, gradient, heads, n, BLOCK=512)
    return gradient


@triton.jit
def _invert_kernel(INDEX, KEY_AT, n, BLOCK: tl.constexpr):
    """Set KEY_AT[offset, query] = key; a query has at most one key per offset, so writes do not collide."""
    pair = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    real = pair < n * n
    offset = tl.load(INDEX + pair, mask=real, other=0)
    tl.store(KEY_AT + offset * n + pair // n, pair % n, mask=real)


@triton.jit
def _collect_kernel(PAIRS, KEY_AT, GRADIENT, heads, n, BLOCK: tl.constexpr):
    """Sum the gradients of one offset and head."""
    offset, head = tl.program_id(0), tl.program_id(1)
    total = tl.zeros((BLOCK,), tl.float32)
    for start in range(0, n, BLOCK):
        query = start + tl.arange(0, BLOCK)
        key = tl.load(KEY_AT + offset * n + query, mask=query < n, other=-1)
        pair = (head * n + query).to(tl.int64) * n + key
        total += tl.load(PAIRS + pair, mask=key >= 0, other=0.0)
    tl.store(GRADIENT + offset * heads + head, tl.sum(total))
