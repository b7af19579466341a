"""CPU implementation of the attention operators in plain torch, so that tracing them needs no GPU.

It keeps all attention weights in memory; use `box_attention` to compute on a CPU.

Legend: B batch, D H W token grid, N tokens per window, d channels per head.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from videoswin.model.windows import Grid, merge, partition, region_mask


def attention_forward(
    qkv: Tensor, bias_table: Tensor, bias_index: Tensor, window: Grid, shift: Grid
) -> tuple[Tensor, Tensor]:
    """Compute window attention of qkv (B, D, H, W, 3, heads, d).

    Returns:
        Output (B, D, H, W, heads * d), and log2 of each row's sum of exponentials, float32
        (B * windows, heads, N).
    """
    logits, _, _, v = _logits(qkv, bias_table, bias_index, window, shift)
    log_sums = logits.logsumexp(-1)  # (B, windows, heads, N)
    out = (logits - log_sums[..., None]).exp() @ v  # (B, windows, heads, N, d)
    out = _to_tokens(out, qkv, window, shift).flatten(4)  # (B, D, H, W, heads * d)
    return out.to(qkv.dtype), (log_sums.flatten(0, 1) / math.log(2)).float()


def attention_backward(
    upstream: Tensor,
    qkv: Tensor,
    bias_table: Tensor,
    bias_index: Tensor,
    out: Tensor,
    log_sums: Tensor,
    window: Grid,
    shift: Grid,
) -> tuple[Tensor, Tensor]:
    """Return the gradients of qkv, in its type, and of the bias table, in float32."""
    logits, q, k, v = _logits(qkv, bias_table, bias_index, window, shift)
    up, attended = (_to_windows(x.reshape(qkv[..., 0, :, :].shape), window, shift) for x in (upstream, out))
    up, attended = up.to(v.dtype), attended.to(v.dtype)  # each (B, windows, heads, N, d)
    weights = (logits - log_sums.view(logits.shape[:-1])[..., None] * math.log(2)).exp()
    slope = weights * (up @ v.mT - (up * attended).sum(-1, keepdim=True))  # (B, windows, heads, N, N)
    scale = q.shape[-1] ** -0.5
    gradients = (slope @ k * scale, slope.mT @ q * scale, weights.mT @ up)
    qkv_gradient = torch.stack([_to_tokens(gradient, qkv, window, shift) for gradient in gradients], dim=4)
    pairs = slope.sum((0, 1)).flatten(1).T  # (N * N, heads)
    table_gradient = torch.zeros(bias_table.shape, dtype=pairs.dtype, device=pairs.device)
    table_gradient.index_add_(0, bias_index.flatten(), pairs)
    return qkv_gradient.to(qkv.dtype), table_gradient.float()


def _logits(
    qkv: Tensor, bias_table: Tensor, bias_index: Tensor, window: Grid, shift: Grid
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return logits (B, windows, heads, N, N) and q, k, v (B, windows, heads, N, d) in at least float32."""
    exact = torch.promote_types(qkv.dtype, torch.float32)
    q, k, v = (_to_windows(x, window, shift).to(exact) for x in qkv.unbind(4))
    bias = bias_table[bias_index].permute(2, 0, 1).to(exact)  # (heads, N, N)
    logits = q @ k.mT * q.shape[-1] ** -0.5 + bias
    if any(shift):
        d, h, w = qkv.shape[1:4]
        visible = region_mask((d, h, w), window, shift).to(qkv.device)  # (windows, N, N)
        logits = logits.masked_fill(~visible[None, :, None], float("-inf"))
    return logits, q, k, v


def _to_windows(x: Tensor, window: Grid, shift: Grid) -> Tensor:
    """Roll and partition: (B, D, H, W, heads, d) -> (B, windows, heads, N, d)."""
    return partition(x.roll([-s for s in shift], dims=(1, 2, 3)), window).transpose(2, 3)


def _to_tokens(windows: Tensor, qkv: Tensor, window: Grid, shift: Grid) -> Tensor:
    """Merge and roll back: (B, windows, heads, N, d) -> (B, D, H, W, heads, d), with the grid of qkv."""
    d, h, w = qkv.shape[1:4]
    return merge(windows.transpose(2, 3), window, (d, h, w)).roll(shift, dims=(1, 2, 3))
