"""`triton_attention`, an attention for `VideoSwin`, and the two operators that it is made of.

torch knows their shapes, gradients, autocast and cost, so they can be compiled, captured and counted.
Legend: B batch, D H W grid of tokens, N tokens of a window, d channels of a head.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from videoswin.acceleration.triton import reference
from videoswin.model.windows import Grid, WindowGeometry

DTYPES = (torch.float16, torch.bfloat16, torch.float32)
"""Types of numbers that the kernels compute with."""
WIDTHS = (16, 32, 64)
"""Channels of a head for which they have tiles; published models have 32."""


def triton_attention(qkv: Tensor, bias_table: Tensor, geometry: WindowGeometry) -> Tensor:
    """qkv (B, D, H, W, 3, heads, d), bias table (offsets, heads) -> (B, D, H, W, heads * d).

    On CUDA ValueError unless d is one of WIDTHS and qkv is of one of DTYPES.
    """
    out: Tensor = window_attention(qkv, bias_table, geometry.bias_index, geometry.window, geometry.shift)[0]
    return out


@torch.library.custom_op("videoswin::window_attention", mutates_args=(), device_types="cpu")
def window_attention(
    qkv: Tensor, bias_table: Tensor, bias_index: Tensor, window: Sequence[int], shift: Sequence[int]
) -> tuple[Tensor, Tensor]:
    """Attended (B, D, H, W, heads * d), and float32 (B * windows, heads, N): log2 of rows' sums of exp."""
    return reference.attention_forward(qkv, bias_table, bias_index, _grid(window), _grid(shift))


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
    """Gradients of qkv, in its type, and of the bias table, float32."""
    return reference.attention_backward(
        upstream, qkv, bias_table, bias_index, out, log_sums, _grid(window), _grid(shift)
    )


@window_attention.register_kernel("cuda")
def _forward_on_cuda(
    qkv: Tensor, bias_table: Tensor, bias_index: Tensor, window: Sequence[int], shift: Sequence[int]
) -> tuple[Tensor, Tensor]:
    width = qkv.shape[-1]
    if width not in WIDTHS or qkv.dtype not in DTYPES:
        raise ValueError(
            f"triton_attention takes heads of {WIDTHS} channels in float16, bfloat16 or float32, got {width}"
            f" channels in {qkv.dtype}; box_attention takes any"
        )
    from videoswin.acceleration.triton.forward import attention_forward

    # The kernels step from token to token by one stride. A linear layer's output is contiguous anyway.
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
    b, d, h, w, _, heads, width = qkv.shape
    n = bias_index.shape[0]
    log_sums = qkv.new_empty(b * d * h * w // n, heads, n, dtype=torch.float32)
    return qkv.new_empty(b, d, h, w, heads * width), log_sums


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


def _remember(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
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


window_attention.register_autograd(_gradients, setup_context=_remember)


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


# Not register_autocast of the operator: that would round the bias table, too.
_AUTOCAST = torch.library.Library("videoswin", "FRAGMENT")  # type: ignore[no-untyped-call]
_AUTOCAST.impl("window_attention", _under_autocast("cpu"), "AutocastCPU")  # type: ignore[no-untyped-call]
_AUTOCAST.impl("window_attention", _under_autocast("cuda"), "AutocastCUDA")  # type: ignore[no-untyped-call]


@register_flop_formula(torch.ops.videoswin.window_attention)
def _forward_flops(
    qkv: Sequence[int], table: Sequence[int], index: Sequence[int], *rest: Any, **outputs: Any
) -> int:
    """Two products of every query with the keys of a whole window, masked or not."""
    b, d, h, w, _, heads, width = qkv
    return 2 * 2 * b * d * h * w * heads * width * index[0]


@register_flop_formula(torch.ops.videoswin.window_attention_backward)
def _backward_flops(upstream: Sequence[int], qkv: Sequence[int], *rest: Any, **kwargs: Any) -> int:
    """Five products, the logits being made again, as torch counts its own fused attention."""
    return _forward_flops(qkv, *rest) // 2 * 5


def _grid(sizes: Sequence[int]) -> Grid:
    d, h, w = sizes
    return d, h, w
