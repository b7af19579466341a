"""triton_attention, an attention function for VideoSwin, and its two operators.

The operators have fake kernels, gradients, autocast rules and FLOP formulas, so they can be compiled,
captured in CUDA graphs and counted.

Legend: B batch, D H W token grid, N tokens per window, head_dim channels per head.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from videoswin.model.windows import Grid, WindowGeometry

DTYPES = (torch.float16, torch.bfloat16, torch.float32)
"""Types that the kernels support."""
WIDTHS = (16, 32, 64)
"""Channels per head that the kernels support; published models have 32."""


def triton_attention(qkv: Tensor, bias_table: Tensor, geometry: WindowGeometry) -> Tensor:
    """Attend inside windows with Triton kernels; see AttentionFn.

    Args:
        qkv: (B, D, H, W, 3, heads, head_dim).
        bias_table: (offsets, heads).
        geometry: Windows of the grid.

    Returns:
        (B, D, H, W, heads * head_dim).

    Raises:
        ValueError: On CUDA, head_dim is not one of WIDTHS, or the type of qkv is not one of DTYPES.
    """
    out: Tensor = window_attention(qkv, bias_table, geometry.bias_index, geometry.window, geometry.shift)[0]
    return out


@torch.library.custom_op("videoswin::window_attention", mutates_args=(), device_types="cpu")
def window_attention(
    qkv: Tensor, bias_table: Tensor, bias_index: Tensor, window: Sequence[int], shift: Sequence[int]
) -> tuple[Tensor, Tensor]:
    """Return the output (B, D, H, W, heads * head_dim), and log2 of each row's sum of exponentials.

    The latter is (B * windows, heads, N), float32, for the backward pass.

    Args:
        qkv: (B, D, H, W, 3, heads, head_dim), padded to whole windows.
        bias_table: (offsets, heads).
        bias_index: (N, N) row of the bias table for each pair (query, key).
        window: Tokens of a window along time, height and width.
        shift: Shift of the windows in tokens along the same axes.
    """
    return _forward_in_torch(qkv, bias_table, bias_index, _grid(window), _grid(shift))


@torch.library.custom_op("videoswin::window_attention_backward", mutates_args=(), device_types="cpu")
def window_attention_backward(
    upstream: Tensor,
    qkv: Tensor,
    bias_table: Tensor,
    bias_index: Tensor,
    out: Tensor,
    log_sums: Tensor,
    window: Sequence[int],
    shift: Sequence[int],
) -> tuple[Tensor, Tensor]:
    """Return the gradients of qkv, in its type, and of the bias table, in float32.

    Args:
        upstream: Gradient of the output, (B, D, H, W, heads * head_dim).
        qkv: (B, D, H, W, 3, heads, head_dim).
        bias_table: (offsets, heads).
        bias_index: (N, N) row of the bias table for each pair (query, key).
        out: Output of `window_attention`, (B, D, H, W, heads * head_dim).
        log_sums: Second result of `window_attention`, (B * windows, heads, N).
        window: Tokens of a window along time, height and width.
        shift: Shift of the windows in tokens along the same axes.
    """
    return _backward_in_torch(
        upstream, qkv, bias_table, bias_index, out, log_sums, _grid(window), _grid(shift)
    )


@window_attention.register_kernel("cuda")
def _forward_on_cuda(
    qkv: Tensor, bias_table: Tensor, bias_index: Tensor, window: Sequence[int], shift: Sequence[int]
) -> tuple[Tensor, Tensor]:
    head_dim = qkv.shape[-1]
    if head_dim not in WIDTHS or qkv.dtype not in DTYPES:
        raise ValueError(
            f"heads of triton_attention must have {WIDTHS} channels in float16, bfloat16 or float32, got "
            f"{head_dim} channels in {qkv.dtype}; box_attention supports all"
        )
    from videoswin.acceleration.triton.forward import attention_forward

    # The kernels assume contiguous tokens. The output of a linear layer is contiguous already.
    return attention_forward(qkv.contiguous(), bias_table, bias_index, _grid(window), _grid(shift))


@window_attention_backward.register_kernel("cuda")
def _backward_on_cuda(
    upstream: Tensor,
    qkv: Tensor,
    bias_table: Tensor,
    bias_index: Tensor,
    out: Tensor,
    log_sums: Tensor,
    window: Sequence[int],
    shift: Sequence[int],
) -> tuple[Tensor, Tensor]:
    from videoswin.acceleration.triton.backward import attention_backward

    return attention_backward(
        upstream.contiguous(),
        qkv.contiguous(),
        bias_table,
        bias_index,
        out,
        log_sums,
        _grid(window),
        _grid(shift),
    )


@window_attention.register_fake
def _forward_shapes(
    qkv: Tensor, bias_table: Tensor, bias_index: Tensor, window: Sequence[int], shift: Sequence[int]
) -> tuple[Tensor, Tensor]:
    b, d, h, w, _, heads, head_dim = qkv.shape
    n = bias_index.shape[0]
    log_sums = qkv.new_empty(b * d * h * w // n, heads, n, dtype=torch.float32)
    return qkv.new_empty(b, d, h, w, heads * head_dim), log_sums


@window_attention_backward.register_fake
def _backward_shapes(
    upstream: Tensor,
    qkv: Tensor,
    bias_table: Tensor,
    bias_index: Tensor,
    out: Tensor,
    log_sums: Tensor,
    window: Sequence[int],
    shift: Sequence[int],
) -> tuple[Tensor, Tensor]:
    return qkv.new_empty(qkv.shape), bias_table.new_empty(bias_table.shape, dtype=torch.float32)


def _save_for_backward(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    *tensors, ctx.window, ctx.shift = inputs
    ctx.save_for_backward(*tensors, *output)
    ctx.mark_non_differentiable(output[1])
    ctx.set_materialize_grads(False)


def _gradients(ctx: Any, upstream: Tensor | None, _: None) -> tuple[Tensor | None, ...]:
    if upstream is None:
        return None, None, None, None, None
    qkv, bias_table, bias_index, out, log_sums = ctx.saved_tensors
    qkv_gradient, table_gradient = window_attention_backward(
        upstream, qkv, bias_table, bias_index, out, log_sums, ctx.window, ctx.shift
    )
    return qkv_gradient, table_gradient.to(bias_table.dtype), None, None, None


window_attention.register_autograd(_gradients, setup_context=_save_for_backward)


def _under_autocast(device_type: str) -> Callable[..., tuple[Tensor, Tensor]]:
    def attend(
        qkv: Tensor, bias_table: Tensor, bias_index: Tensor, window: Sequence[int], shift: Sequence[int]
    ) -> tuple[Tensor, Tensor]:
        if qkv.dtype in DTYPES:
            qkv = qkv.to(torch.get_autocast_dtype(device_type))
        with torch.autocast(device_type, enabled=False):
            attended: tuple[Tensor, Tensor] = window_attention(qkv, bias_table, bias_index, window, shift)
        return attended

    return attend


# Not the operator's register_autocast, which would also round the bias table.
_AUTOCAST = torch.library.Library("videoswin", "FRAGMENT")  # type: ignore[no-untyped-call]
_AUTOCAST.impl("window_attention", _under_autocast("cpu"), "AutocastCPU")  # type: ignore[no-untyped-call]
_AUTOCAST.impl("window_attention", _under_autocast("cuda"), "AutocastCUDA")  # type: ignore[no-untyped-call]


@register_flop_formula(torch.ops.videoswin.window_attention)
def _forward_flops(
    qkv: Sequence[int], table: Sequence[int], index: Sequence[int], *rest: Any, **outputs: Any
) -> int:
    """Count two products of every query with all keys of its window, masked or not."""
    b, d, h, w, _, heads, head_dim = qkv
    return 2 * 2 * b * d * h * w * heads * head_dim * index[0]


@register_flop_formula(torch.ops.videoswin.window_attention_backward)
def _backward_flops(upstream: Sequence[int], qkv: Sequence[int], *rest: Any, **kwargs: Any) -> int:
    """Count five products, including the recomputed logits, as torch does for its fused attention."""
    return _forward_flops(qkv, *rest) // 2 * 5


def _grid(sizes: Sequence[int]) -> Grid:
    d, h, w = sizes
    return d, h, w


# In torch, so that tracing the operators needs no GPU. All attention weights are kept in memory.


def _forward_in_torch(
    qkv: Tensor, bias_table: Tensor, bias_index: Tensor, window: Grid, shift: Grid
) -> tuple[Tensor, Tensor]:
    tokens, logits, _, _, v = _logits(qkv, bias_table, bias_index, window, shift)
    log_sums = logits.logsumexp(-1)  # (B, windows, heads, N)
    attended = (logits - log_sums[..., None]).exp() @ v  # (B, windows, heads, N, head_dim)
    out = qkv.new_empty(qkv[..., 0, :, :].flatten(1, 3).shape)  # (B, D*H*W, heads, head_dim)
    out[:, tokens] = attended.transpose(2, 3).to(out.dtype)
    return out.view(*qkv.shape[:4], -1), (log_sums.flatten(0, 1) / math.log(2)).float()


def _backward_in_torch(
    upstream: Tensor,
    qkv: Tensor,
    bias_table: Tensor,
    bias_index: Tensor,
    out: Tensor,
    log_sums: Tensor,
    window: Grid,
    shift: Grid,
) -> tuple[Tensor, Tensor]:
    tokens, logits, q, k, v = _logits(qkv, bias_table, bias_index, window, shift)
    by_head = qkv[..., 0, :, :].shape  # (B, D, H, W, heads, head_dim)
    up, attended = (x.reshape(by_head).flatten(1, 3)[:, tokens].transpose(2, 3) for x in (upstream, out))
    up, attended = up.to(v.dtype), attended.to(v.dtype)  # each (B, windows, heads, N, head_dim)
    weights = (logits - log_sums.view(logits.shape[:-1])[..., None] * math.log(2)).exp()
    slope = weights * (up @ v.mT - (up * attended).sum(-1, keepdim=True))  # (B, windows, heads, N, N)
    scale = q.shape[-1] ** -0.5
    gradients = torch.stack((slope @ k * scale, slope.mT @ q * scale, weights.mT @ up), dim=4)
    qkv_gradient = torch.empty_like(qkv, memory_format=torch.contiguous_format)
    # (B, windows, heads, N, 3, head_dim) -> (B, windows, N, 3, heads, head_dim)
    qkv_gradient.flatten(1, 3)[:, tokens] = gradients.permute(0, 1, 3, 4, 2, 5).to(qkv.dtype)
    pairs = slope.sum((0, 1)).flatten(1).T  # (N * N, heads)
    table_gradient = torch.zeros(bias_table.shape, dtype=pairs.dtype, device=pairs.device)
    table_gradient.index_add_(0, bias_index.flatten(), pairs)
    return qkv_gradient, table_gradient.float()


def _logits(
    qkv: Tensor, bias_table: Tensor, bias_index: Tensor, window: Grid, shift: Grid
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Return tokens (windows, N), logits (B, windows, heads, N, N), and q, k, v.

    q, k and v are (B, windows, heads, N, head_dim). They and the logits are at least float32.
    """
    d, h, w = qkv.shape[1:4]
    exact = torch.promote_types(qkv.dtype, torch.float32)
    tokens, visible = (each.to(qkv.device) for each in _windows((d, h, w), window, shift))
    gathered = qkv.flatten(1, 3)[:, tokens]  # (B, windows, N, 3, heads, head_dim)
    q, k, v = gathered.permute(3, 0, 1, 4, 2, 5).to(exact)  # each (B, windows, heads, N, head_dim)
    bias = bias_table[bias_index].permute(2, 0, 1).to(exact)  # (heads, N, N)
    logits = q @ k.mT * q.shape[-1] ** -0.5 + bias
    return tokens, logits.masked_fill(~visible[:, None], float("-inf")), q, k, v


def _windows(grid: Grid, window: Grid, shift: Grid) -> tuple[Tensor, Tensor]:
    """Return the tokens of shifted windows (windows, N), and which pairs may attend (windows, N, N)."""
    axes = [torch.arange(length).roll(-step) for length, step in zip(grid, shift, strict=True)]
    places = torch.stack(torch.meshgrid(*axes, indexing="ij"))  # (3, D, H, W), rolled
    for axis, size in enumerate(window):
        places = places.unflatten(1 + 2 * axis, (-1, size))  # type: ignore[no-untyped-call]
    places = places.permute(0, 1, 3, 5, 2, 4, 6).flatten(4).flatten(1, 3)  # (3, windows, N)
    # Places that wrapped around come before the first one of their window.
    wrapped = places < places[..., :1]
    visible = (wrapped[..., :, None] == wrapped[..., None, :]).all(0)  # (windows, N, N)
    _, height, width = grid
    return (places[0] * height + places[1]) * width + places[2], visible
