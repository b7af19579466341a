"""Linear layers fused with the operations around them: norm before, GELU in between, addition after.

Tokens are read and written once. A program holds all channels of its tokens, so these kernels are for the
first stages, which have few channels and many tokens and are limited by memory.

Legend: M tokens, C channels, O output channels; main, rest: the channels as two powers of two (96 = 64 + 32),
because tile sizes are powers of two, and padding would waste multiplications.
"""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from videoswin.acceleration.triton.tiles import Tiles, linear_tiles


def norm_linear(
    x: Tensor,
    norm_weight: Tensor,
    norm_bias: Tensor,
    eps: float,
    weight: Tensor,
    bias: Tensor,
    tiles: Tiles | None = None,
) -> Tensor:
    """Apply a linear layer to norm(x): (M, C) -> (M, O). All tensors must be contiguous, also below.

    Args:
        x: Tokens (M, C).
        norm_weight: Scale of the norm, (C).
        norm_bias: Offset of the norm, (C).
        eps: Value added to the variance.
        weight: (O, C).
        bias: (O).
        tiles: Tile sizes; None uses the default for C and the type of x.
    """
    out = x.new_empty(len(x), len(weight))
    layer = (weight, bias, None, out, eps, len(weight))
    _launch(_linear_kernel, x, tiles, norm_weight, norm_bias, *layer, NORM=True, ADD=False)
    return out


def linear_add(
    x: Tensor, weight: Tensor, bias: Tensor, residual: Tensor, tiles: Tiles | None = None
) -> Tensor:
    """Add a linear layer of x (M, C) to the residual (M, O).

    Args:
        x: Tokens (M, C).
        weight: (O, C).
        bias: (O).
        residual: (M, O).
        tiles: Tile sizes; None uses the default for C and the type of x.
    """
    out = torch.empty_like(residual)
    layer = (weight, bias, residual, out, 0.0, len(weight))
    _launch(_linear_kernel, x, tiles, None, None, *layer, NORM=False, ADD=True)
    return out


def norm_mlp_add(
    x: Tensor,
    norm_weight: Tensor,
    norm_bias: Tensor,
    eps: float,
    weight1: Tensor,
    bias1: Tensor,
    weight2: Tensor,
    bias2: Tensor,
    tiles: Tiles | None = None,
) -> Tensor:
    """Add the MLP of norm(x) to x (M, C); the hidden layer is not written to memory.

    Args:
        x: Tokens (M, C).
        norm_weight: Scale of the norm, (C).
        norm_bias: Offset of the norm, (C).
        eps: Value added to the variance.
        weight1: First layer, (hidden, C).
        bias1: (hidden).
        weight2: Second layer, (C, hidden).
        bias2: (C).
        tiles: Tile sizes; None uses the default for C and the type of x.
    """
    out = torch.empty_like(x)
    layers = (weight1, bias1, weight2, bias2, out, eps, len(weight1))
    _launch(_mlp_kernel, x, tiles, norm_weight, norm_bias, *layers)
    return out


def _launch(
    kernel: Any, x: Tensor, tiles: Tiles | None, *arguments: Tensor | float | None, **flags: bool
) -> None:
    """Launch a kernel on tokens (M, C), with one program per tile of rows."""
    rows, channels = x.shape
    main, rest = channel_parts(channels)
    tiles = tiles or linear_tiles(channels, x.dtype)
    with torch.cuda.device_of(x):
        kernel[(triton.cdiv(rows, tiles.rows),)](
            x,
            rows,
            *arguments,
            MAIN=main,
            REST=rest,
            ROWS=tiles.rows,
            COLUMNS=tiles.columns,
            num_warps=tiles.warps,
            num_stages=tiles.stages,
            **flags,
        )


def channel_parts(channels: int) -> tuple[int, int]:
    """Split channels into their largest power of two and the rest; raise ValueError if unsupported."""
    main = 1 << (channels.bit_length() - 1)
    if channels % 16 or channels.bit_count() > 2:  # 16 is the smallest tile of a tensor core
        raise ValueError(f"channels must be one power of two >= 16 or a sum of two, got {channels}")
    return main, channels - main


@triton.jit
def _linear_kernel(
    X,
    rows,
    NORM_WEIGHT,
    NORM_BIAS,
    WEIGHT,
    BIAS,
    RESIDUAL,
    OUT,
    eps,
    outputs,
    MAIN: tl.constexpr,
    REST: tl.constexpr,
    NORM: tl.constexpr,
    ADD: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """Compute all output channels of ROWS tokens, COLUMNS at a time."""
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    real = (row < rows)[:, None]
    main, rest = _load_tokens(X, row, real, MAIN, REST, "evict_first")
    if NORM:
        main, rest = _normed(main, rest, NORM_WEIGHT, NORM_BIAS, eps, MAIN, REST)
    main, rest = main.to(WEIGHT.dtype.element_ty), rest.to(WEIGHT.dtype.element_ty)
    for first in range(0, outputs, COLUMNS):
        column = first + tl.arange(0, COLUMNS)
        valid = column < outputs
        out = _product(main, rest, WEIGHT, column, valid, MAIN, REST)
        out += tl.load(BIAS + column, mask=valid, other=0.0).to(tl.float32)[None, :]
        at = row[:, None] * outputs + column[None, :]
        if ADD:
            out += tl.load(RESIDUAL + at, mask=real & valid[None, :], other=0.0).to(tl.float32)
        tl.store(OUT + at, out.to(OUT.dtype.element_ty), mask=real & valid[None, :])


@triton.jit
def _mlp_kernel(
    X,
    rows,
    NORM_WEIGHT,
    NORM_BIAS,
    WEIGHT1,
    BIAS1,
    WEIGHT2,
    BIAS2,
    OUT,
    eps,
    hidden,
    MAIN: tl.constexpr,
    REST: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """Compute the MLP of ROWS tokens, COLUMNS channels of the hidden layer at a time."""
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    real = (row < rows)[:, None]
    x_main, x_rest = _load_tokens(X, row, real, MAIN, REST, "evict_last")
    main, rest = _normed(x_main, x_rest, NORM_WEIGHT, NORM_BIAS, eps, MAIN, REST)
    main, rest = main.to(WEIGHT1.dtype.element_ty), rest.to(WEIGHT1.dtype.element_ty)
    main_sum = tl.zeros_like(x_main)
    rest_sum = tl.zeros_like(x_rest)
    for first in range(0, hidden, COLUMNS):
        column = first + tl.arange(0, COLUMNS)
        valid = column < hidden
        inside = _product(main, rest, WEIGHT1, column, valid, MAIN, REST)
        inside += tl.load(BIAS1 + column, mask=valid, other=0.0).to(tl.float32)[None, :]
        inside = 0.5 * inside * (1.0 + tl.erf(inside * 0.7071067811865476))
        inside = inside.to(WEIGHT2.dtype.element_ty)
        main_sum = _add_product(main_sum, inside, WEIGHT2, 0, column, valid, hidden, MAIN)
        if REST:
            rest_sum = _add_product(rest_sum, inside, WEIGHT2, MAIN, column, valid, hidden, REST)
    # Tokens are read again, from the cache, because the sums need the registers. The eviction policy differs,
    # so that the compiler does not merge the two loads.
    x_main, x_rest = _load_tokens(X, row, real, MAIN, REST, "evict_first")
    _store_tokens(OUT, row, real, x_main + main_sum, BIAS2, 0, MAIN, MAIN + REST)
    if REST:
        _store_tokens(OUT, row, real, x_rest + rest_sum, BIAS2, MAIN, REST, MAIN + REST)


@triton.jit
def _load_tokens(X, row, real, MAIN: tl.constexpr, REST: tl.constexpr, EVICT: tl.constexpr):
    """Load channels (ROWS, main) and (ROWS, rest) in float32; without a rest, the latter are zeros."""
    start = X + row[:, None] * (MAIN + REST)
    main = tl.load(start + tl.arange(0, MAIN)[None, :], mask=real, other=0.0, eviction_policy=EVICT)
    main = main.to(tl.float32)
    if REST:
        rest = tl.load(
            start + MAIN + tl.arange(0, REST)[None, :], mask=real, other=0.0, eviction_policy=EVICT
        )
        rest = rest.to(tl.float32)
    else:
        rest = tl.zeros((row.shape[0], 16), tl.float32)
    return main, rest


@triton.jit
def _normed(main, rest, NORM_WEIGHT, NORM_BIAS, eps, MAIN: tl.constexpr, REST: tl.constexpr):
    """Apply layer norm over main and rest together."""
    CHANNELS: tl.constexpr = MAIN + REST
    mean = ((tl.sum(main, 1) + tl.sum(rest, 1)) / CHANNELS)[:, None]
    main -= mean
    total = tl.sum(main * main, 1)
    if REST:
        rest -= mean
        total += tl.sum(rest * rest, 1)
    scale = tl.rsqrt(total / CHANNELS + eps)[:, None]
    channel = tl.arange(0, MAIN)
    main = main * scale * tl.load(NORM_WEIGHT + channel).to(tl.float32)[None, :]
    main += tl.load(NORM_BIAS + channel).to(tl.float32)[None, :]
    if REST:
        channel = MAIN + tl.arange(0, REST)
        rest = rest * scale * tl.load(NORM_WEIGHT + channel).to(tl.float32)[None, :]
        rest += tl.load(NORM_BIAS + channel).to(tl.float32)[None, :]
    return main, rest


@triton.jit
def _product(main, rest, WEIGHT, column, valid, MAIN: tl.constexpr, REST: tl.constexpr):
    """Multiply tokens by these rows of WEIGHT (O, C): (ROWS, COLUMNS), float32."""
    start = WEIGHT + column[None, :] * (MAIN + REST)
    weight = tl.load(start + tl.arange(0, MAIN)[:, None], mask=valid[None, :], other=0.0)
    out = tl.dot(main, weight, input_precision="ieee")
    if REST:
        weight = tl.load(start + MAIN + tl.arange(0, REST)[:, None], mask=valid[None, :], other=0.0)
        out = tl.dot(rest, weight, out, input_precision="ieee")
    return out


@triton.jit
def _add_product(total, inside, WEIGHT, first, column, valid, hidden, WIDTH: tl.constexpr):
    """Add inside times these columns of WEIGHT (C, hidden), rows from `first` on, to total (ROWS, WIDTH)."""
    at = (first + tl.arange(0, WIDTH))[None, :] * hidden + column[:, None]
    weight = tl.load(WEIGHT + at, mask=valid[:, None], other=0.0)
    return tl.dot(inside, weight, total, input_precision="ieee")


@triton.jit
def _store_tokens(OUT, row, real, out, BIAS, first, WIDTH: tl.constexpr, CHANNELS: tl.constexpr):
    """Add the bias to WIDTH channels, from `first` on, and store them."""
    channel = first + tl.arange(0, WIDTH)
    out += tl.load(BIAS + channel).to(tl.float32)[None, :]
    at = OUT + row[:, None] * CHANNELS + channel[None, :]
    tl.store(at, out.to(OUT.dtype.element_ty), mask=real)
