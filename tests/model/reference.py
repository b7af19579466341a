"""Window attention literally as in the paper: the reference of the tests and of some benchmarks.

Legend: B batch, D H W grid of tokens (whole windows), C = heads * head_dim channels, P M M window, N
tokens in one.
"""

from __future__ import annotations

import torch
from torch import Tensor

from videoswin.model.windows import Grid, WindowGeometry


def plain_attention(qkv: Tensor, bias_table: Tensor, geometry: WindowGeometry) -> Tensor:
    """Compute attention literally as in the paper: roll, partition, masked attention, merge, roll back.

    It is an AttentionFn that is slow and needs much memory.
    """
    back = geometry.shift
    shifted = qkv.roll([-s for s in back], dims=(1, 2, 3))
    windows = partition(shifted, geometry.window)  # (B, windows, N, 3, heads, head_dim)
    q, k, v = windows.permute(3, 0, 1, 4, 2, 5)  # each (B, windows, heads, N, head_dim)
    logits = q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5  # (B, windows, heads, N, N)
    logits = logits + bias_table[geometry.bias_index].permute(2, 0, 1)
    if any(back):
        visible = region_mask(geometry.grid, geometry.window, back).to(qkv.device)  # (windows, N, N)
        logits = logits.masked_fill(~visible[None, :, None], float("-inf"))
    out = logits.softmax(-1) @ v  # (B, windows, heads, N, head_dim)
    out = out.transpose(2, 3).flatten(3)  # (B, windows, N, C)
    return merge(out, geometry.window, geometry.grid).roll(back, dims=(1, 2, 3))


def partition(x: Tensor, window: Grid) -> Tensor:
    """Partition (B, D, H, W, ...) -> (B, windows, P * M * M, ...), row-major, for a grid of whole windows."""
    b, *grid = x.shape[:4]
    counts = [g // w for g, w in zip(grid, window, strict=True)]
    x = x.reshape(b, counts[0], window[0], counts[1], window[1], counts[2], window[2], *x.shape[4:])
    x = x.movedim((2, 4, 6), (4, 5, 6))  # (B, nD, nH, nW, P, M, M, ...)
    return x.flatten(4, 6).flatten(1, 3)


def merge(windows: Tensor, window: Grid, grid: Grid) -> Tensor:
    """Invert `partition`: (B, windows, P * M * M, ...) -> (B, D, H, W, ...)."""
    counts = [g // w for g, w in zip(grid, window, strict=True)]
    x = windows.reshape(windows.shape[0], *counts, *window, *windows.shape[3:])
    x = x.movedim((4, 5, 6), (2, 4, 6))  # (B, nD, P, nH, M, nW, M, ...)
    return x.flatten(5, 6).flatten(3, 4).flatten(1, 2)


def region_mask(grid: Grid, window: Grid, shift: Grid) -> Tensor:
    """Return (windows, N, N) bool: which pairs of a rolled and partitioned grid attend to each other.

    Source: Liu et al. 2021, the mask of shifted windows.
    """
    region = torch.zeros(grid, dtype=torch.int64)
    for axis, (length, size, moved) in enumerate(zip(grid, window, shift, strict=True)):
        position = torch.arange(length)
        # After the roll, the last `moved` positions of the axis are its start.
        wrapped = (position >= length - moved) if moved else torch.zeros(length, dtype=torch.bool)
        view = [1, 1, 1]
        view[axis] = length
        region = region * 2 + wrapped.view(view).long()
        assert length % size == 0, "pad first"
    windows = partition(region[None], window)[0]  # (windows, N)
    return windows[:, :, None] == windows[:, None, :]
