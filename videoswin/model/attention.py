"""Attention inside windows: the seam where a faster kernel goes in, and two implementations in plain torch.

Legend: B batch, D H W grid of tokens (whole windows), C = heads * d channels, N tokens per box or window.
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
    """The seam: qkv (B, D, H, W, 3, heads, d), bias table (offsets, heads) -> (B, D, H, W, heads * d)."""

    def __call__(self, qkv: Tensor, bias_table: Tensor, geometry: WindowGeometry) -> Tensor: ...


def box_attention(qkv: Tensor, bias_table: Tensor, geometry: WindowGeometry) -> Tensor:
    """What everybody runs: one scaled_dot_product_attention per shape of box; no roll, no mask."""
    b, d, h, w, _, heads, width = qkv.shape
    tokens = qkv.flatten(1, 3)  # (B, D*H*W, 3, heads, d)
    outputs = []
    for boxes in geometry.boxes:
        # One row copy per token takes the place of roll, partition and permute.
        gathered = tokens.index_select(1, boxes.tokens)  # (B, boxes*N, 3, heads, d)
        outputs.append(_attend(gathered, box_bias(bias_table, boxes, qkv.dtype)))  # (B, boxes*N, C)
    out = outputs[0] if len(outputs) == 1 else torch.cat(outputs, dim=1)  # (B, D*H*W, C)
    return out.index_select(1, geometry.restore).view(b, d, h, w, heads * width)


def box_bias(bias_table: Tensor, boxes: Boxes, dtype: torch.dtype) -> Tensor:
    """(1, heads, N, N): the position bias of every pair of tokens in one of these boxes."""
    table = bias_table.to(dtype).t().contiguous()  # (heads, offsets)
    if table.is_cuda and table.requires_grad:
        # There the gradient of `gather` is summed by atomics, in another order every time.
        return table[:, boxes.bias_index][None]
    pairs = boxes.bias_index.flatten().expand(len(table), -1)
    # Indexing gives the same and takes longer on a CPU.
    return table.gather(1, pairs).view(1, len(table), *boxes.bias_index.shape)


def _attend(qkv: Tensor, bias: Tensor) -> Tensor:
    """Attention inside boxes of N tokens, box by box: (B, boxes*N, 3, heads, d) -> (B, boxes*N, C)."""
    b, _, _, heads, width = qkv.shape
    q, k, v = qkv.view(-1, bias.shape[-1], 3, heads, width).permute(2, 0, 3, 1, 4)  # (B*boxes, heads, N, d)
    out = _fused_attention(q, k, v, bias)
    return out.transpose(1, 2).reshape(b, -1, heads * width)


def _fused_attention(q: Tensor, k: Tensor, v: Tensor, bias: Tensor) -> Tensor:
    """softmax(q k / sqrt(d) + bias) v for q, k, v (B*boxes, heads, N, d) and bias (1, heads, N, N)."""
    if bias.requires_grad and bias.device.type == "cpu" and not torch.compiler.is_compiling():
        out: Tensor = _LeanAttention.apply(q, k, v, bias)  # type: ignore[no-untyped-call]
        return out
    if q.dtype == torch.bfloat16 and fits_pieces(q) and has_instructions_for(q.dtype):
        return _attention_in_steps(q, k, v, bias)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=bias)


def _attention_in_steps(q: Tensor, k: Tensor, v: Tensor, bias: Tensor) -> Tensor:
    """The same for a CPU with bfloat16, where torch's fused kernel is slower than products and a softmax.

    So it was on processors with AVX-512 and without AMX; none with AMX was at hand. Where bfloat16 is
    emulated, the fused kernel is faster. The weights of a few boxes at a time stay in the cache. Logits are
    rounded to bfloat16 before the softmax, as they are where attention is written out, and are not in the
    fused kernel.
    """
    few = max(1, CACHED_NUMBERS // bias.numel())
    outputs = []
    for q_few, k_few, v_few in zip(*(x.split(few) for x in (q * q.shape[-1] ** -0.5, k, v)), strict=True):
        weights = (q_few @ k_few.mT).add_(bias).softmax(-1)  # (few, heads, N, N)
        outputs.append(weights @ v_few)
    return torch.cat(outputs)


class _LeanAttention(torch.autograd.Function):
    """The same with a backward pass that computes the attention weights again, a few boxes at a time.

    torch's fused CPU kernel cannot differentiate the bias, so where the bias is learned torch falls back on
    separate steps that keep the weights of all boxes, (B*boxes, heads, N, N), until the backward pass.
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
        few = max(1, CACHED_NUMBERS // (2 * bias.numel()))  # boxes whose weights fit, and their gradients
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
    """The paper word by word: roll, partition, softmax(q k / sqrt(d) + bias) v with a mask, merge, roll back.

    Slow and large in memory on purpose; the other implementations are tested against it.
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
    """Multi-head self-attention inside (shifted) 3D windows with a learned bias per relative position."""

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
        """(B, D, H, W, C) -> (B, D, H, W, C)."""
        _, d, h, w, c = x.shape
        geometry = self.geometry_of(x)
        # Padding tokens are zeros after the norm and take part unmasked, as in every published model.
        x = pad_axes(x, geometry.grid)
        if self.attention is box_attention and fits_pieces(x):
            return self._in_pieces(x, geometry)[:, :d, :h, :w]
        qkv = self.qkv(x).view(*x.shape[:4], 3, self.heads, c // self.heads)
        out = self.attention(qkv, self.relative_position_bias_table, geometry)
        projected: Tensor = self.proj(out[:, :d, :h, :w])
        return projected

    def geometry_of(self, x: Tensor) -> WindowGeometry:
        """How tokens (B, D, H, W, C) are cut into windows."""
        # Plain numbers also where torch.compile would keep the sizes open: the geometry depends on them.
        d, h, w = map(operator.index, x.shape[1:4])
        geometry: WindowGeometry = window_geometry(
            (d, h, w), self.window, self.shift, self.sliced_bias, x.device
        )
        return geometry

    def _in_pieces(self, x: Tensor, geometry: WindowGeometry) -> Tensor:
        """As `box_attention` between the two linear layers, but all three for a few boxes at a time.

        Tokens are gathered before they become three times as many numbers, and those never leave the cache.
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
