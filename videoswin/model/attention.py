"""Window attention, the interface of its implementations, and two implementations in plain torch.

Legend: B batch, D H W grid of tokens (whole windows), C = heads * d channels, N tokens per window or box.
"""

from __future__ import annotations

import operator
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from videoswin.model.cpu import CACHED_NUMBERS, fits_pieces, has_instructions_for, linear
from videoswin.model.windows import (
    Boxes,
    Grid,
    WindowGeometry,
    bias_table_rows,
    merge,
    pad_axes,
    partition,
    region_mask,
    window_geometry,
)


class AttentionFn(Protocol):
    """Interface of an attention function.

    Args:
        qkv: (B, D, H, W, 3, heads, d), padded to whole windows.
        bias_table: (offsets, heads).
        geometry: How the grid is partitioned into windows.

    Returns:
        (B, D, H, W, heads * d).
    """

    def __call__(self, qkv: Tensor, bias_table: Tensor, geometry: WindowGeometry) -> Tensor: ...


def box_attention(qkv: Tensor, bias_table: Tensor, geometry: WindowGeometry) -> Tensor:
    """Attend inside each window without rolling or masking; the default `attention` of VideoSwin.

    Boxes of one shape are gathered together and share one position bias. They are attended to by one
    scaled_dot_product_attention, with two exceptions on CPUs: with gradients of the bias, the backward pass
    recomputes the attention weights (_RecomputeAttention), and native bfloat16 inference uses separate
    products and a softmax. If fits_pieces, WindowAttention does the same in pieces, without this function.
    """
    b, d, h, w, _, heads, width = qkv.shape
    tokens = qkv.flatten(1, 3)  # (B, D*H*W, 3, heads, d)
    outputs = []
    for boxes in geometry.boxes:
        # One row copy per token replaces roll, partition and permute.
        gathered = tokens.index_select(1, boxes.tokens)  # (B, boxes*N, 3, heads, d)
        outputs.append(_attend(gathered, box_bias(bias_table, boxes, qkv.dtype)))  # (B, boxes*N, C)
    out = outputs[0] if len(outputs) == 1 else torch.cat(outputs, dim=1)  # (B, D*H*W, C)
    return out.index_select(1, geometry.restore).view(b, d, h, w, heads * width)


def box_bias(bias_table: Tensor, boxes: Boxes, dtype: torch.dtype) -> Tensor:
    """Return (1, heads, N, N): the position bias of all token pairs in a box of this shape."""
    table = bias_table.to(dtype).t().contiguous()  # (heads, offsets)
    if table.is_cuda and table.requires_grad:
        # On CUDA the gradient of `gather` uses atomics, which makes it nondeterministic.
        return table[:, boxes.bias_index][None]
    pairs = boxes.bias_index.flatten().expand(len(table), -1)
    # Indexing has the same result and is slower on a CPU.
    return table.gather(1, pairs).view(1, len(table), *boxes.bias_index.shape)


def _attend(qkv: Tensor, bias: Tensor) -> Tensor:
    """Attend inside boxes of N consecutive tokens: (B, boxes*N, 3, heads, d) -> (B, boxes*N, C)."""
    b, _, _, heads, width = qkv.shape
    q, k, v = qkv.view(-1, bias.shape[-1], 3, heads, width).permute(2, 0, 3, 1, 4)  # (B*boxes, heads, N, d)
    out = _fused_attention(q, k, v, bias)
    return out.transpose(1, 2).reshape(b, -1, heads * width)


def _fused_attention(q: Tensor, k: Tensor, v: Tensor, bias: Tensor) -> Tensor:
    """Compute softmax(q k / sqrt(d) + bias) v for q, k, v (B*boxes, heads, N, d), bias (1, heads, N, N)."""
    if bias.requires_grad and bias.device.type == "cpu" and not torch.compiler.is_compiling():
        out: Tensor = _RecomputeAttention.apply(q, k, v, bias)  # type: ignore[no-untyped-call]
        return out
    if q.dtype == torch.bfloat16 and fits_pieces(q) and has_instructions_for(q.dtype):
        return _attention_in_steps(q, k, v, bias)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=bias)


def _attention_in_steps(q: Tensor, k: Tensor, v: Tensor, bias: Tensor) -> Tensor:
    """Compute _fused_attention as products and a softmax, which is faster for bfloat16 on a CPU.

    This was measured on processors with AVX-512 and without AMX; none with AMX was available. If bfloat16 is
    emulated, torch's fused kernel is faster. The attention weights of a few boxes at a time fit the cache.
    Unlike in the fused kernel, logits are rounded to bfloat16 before the softmax.
    """
    few = max(1, CACHED_NUMBERS // bias.numel())
    outputs = []
    for q_few, k_few, v_few in zip(*(x.split(few) for x in (q * q.shape[-1] ** -0.5, k, v)), strict=True):
        weights = (q_few @ k_few.mT).add_(bias).softmax(-1)  # (few, heads, N, N)
        outputs.append(weights @ v_few)
    return torch.cat(outputs)


class _RecomputeAttention(torch.autograd.Function):
    """Attention whose backward pass recomputes the attention weights, a few boxes at a time.

    torch's fused CPU kernel has no gradient of the bias. With a trainable bias, torch falls back to separate
    operations that keep the attention weights of all boxes, (B*boxes, heads, N, N), for the backward pass.
    """

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, bias: Tensor) -> Tensor:
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=bias.detach())
        ctx.save_for_backward(q, k, v, bias, out)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor, ...]:
        *saved, bias, out = ctx.saved_tensors
        scale = saved[0].shape[-1] ** -0.5
        few = max(1, CACHED_NUMBERS // (2 * bias.numel()))  # boxes whose weights and gradients fit the cache
        grad_bias = torch.zeros_like(bias, dtype=torch.promote_types(bias.dtype, torch.float32))
        grads = []
        for q, k, v, o, up in zip(*(x.split(few) for x in (*saved, out, upstream)), strict=True):
            weights = (q @ k.mT).mul_(scale).add_(bias).softmax(-1)  # (few, heads, N, N)
            grad_logits = weights * (up @ v.mT - (up * o).sum(-1, keepdim=True))
            grad_bias += grad_logits.sum(0)
            grads.append((grad_logits @ k * scale, grad_logits.mT @ q * scale, weights.mT @ up))
        grad_q, grad_k, grad_v = map(torch.cat, zip(*grads, strict=True))
        return grad_q, grad_k, grad_v, grad_bias.to(bias.dtype)


def plain_attention(qkv: Tensor, bias_table: Tensor, geometry: WindowGeometry) -> Tensor:
    """Compute attention literally as in the paper: roll, partition, masked attention, merge, roll back.

    It is slow and needs much memory; it is the reference for tests of the other implementations.
    """
    back = geometry.shift
    shifted = qkv.roll([-s for s in back], dims=(1, 2, 3))
    windows = partition(shifted, geometry.window)  # (B, windows, N, 3, heads, d)
    q, k, v = windows.permute(3, 0, 1, 4, 2, 5)  # each (B, windows, heads, N, d)
    logits = q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5  # (B, windows, heads, N, N)
    logits = logits + bias_table[geometry.bias_index].permute(2, 0, 1)
    if any(back):
        visible = region_mask(geometry.grid, geometry.window, back).to(qkv.device)  # (windows, N, N)
        logits = logits.masked_fill(~visible[None, :, None], float("-inf"))
    out = logits.softmax(-1) @ v  # (B, windows, heads, N, d)
    out = out.transpose(2, 3).flatten(3)  # (B, windows, N, C)
    return merge(out, geometry.window, geometry.grid).roll(back, dims=(1, 2, 3))


class WindowAttention(nn.Module):
    """Multi-head self-attention inside (shifted) 3D windows with a trainable relative position bias."""

    def __init__(
        self, dim: int, heads: int, window: Grid, shift: Grid, *, sliced_bias: bool, attention: AttentionFn
    ) -> None:
        super().__init__()
        self.heads = heads
        self.window = window
        self.shift = shift
        self.sliced_bias = sliced_bias
        self.attention = attention
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)
        self.relative_position_bias_table = nn.Parameter(torch.zeros(bias_table_rows(window), heads))

    def forward(self, x: Tensor) -> Tensor:
        """Attend inside windows: (B, D, H, W, C) -> (B, D, H, W, C)."""
        _, d, h, w, c = x.shape
        geometry = self.geometry_of(x)
        # Padding tokens are zeros after the norm and are not masked, as in every published model.
        x = pad_axes(x, geometry.grid)
        if self.attention is box_attention and fits_pieces(x):
            return self._in_pieces(x, geometry)[:, :d, :h, :w]
        qkv = self.qkv(x).view(*x.shape[:4], 3, self.heads, c // self.heads)
        out = self.attention(qkv, self.relative_position_bias_table, geometry)
        projected: Tensor = self.proj(out[:, :d, :h, :w])
        return projected

    def geometry_of(self, x: Tensor) -> WindowGeometry:
        """Return the partition of tokens (B, D, H, W, C) into windows."""
        # Plain integers, even if torch.compile uses dynamic sizes: the geometry depends on them.
        d, h, w = map(operator.index, x.shape[1:4])
        geometry: WindowGeometry = window_geometry(
            (d, h, w), self.window, self.shift, self.sliced_bias, x.device
        )
        return geometry

    def _in_pieces(self, x: Tensor, geometry: WindowGeometry) -> Tensor:
        """Compute both linear layers and box attention for a few boxes at a time.

        Tokens are gathered before qkv triples their size, so that qkv fits the cache.
        """
        b, c = x.shape[0], x.shape[-1]
        tokens = x.flatten(1, 3)  # (B, D*H*W, C)
        out = torch.empty_like(tokens)
        for boxes in geometry.boxes:
            bias = box_bias(self.relative_position_bias_table, boxes, x.dtype)
            n = bias.shape[-1]
            few = max(1, CACHED_NUMBERS // (b * n * 3 * c))
            for places in torch.split(boxes.tokens, few * n):
                gathered = tokens.index_select(1, places)  # (B, few*N, C)
                qkv = linear(gathered, self.qkv).view(b, -1, 3, self.heads, c // self.heads)
                out.index_copy_(1, places, linear(_attend(qkv, bias), self.proj))
        return out.view(x.shape)
