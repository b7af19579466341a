"""Window attention, the interface of its implementations, and the implementation in plain PyTorch.

Legend: B batch, D H W grid of tokens (whole windows), C = heads * head_dim channels (head_dim per
head), N tokens per window or box.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from videoswin.model.windows import (
    Boxes,
    Grid,
    WindowGeometry,
    bias_table_rows,
    pad_axes,
    window_geometry,
)


class AttentionFn(Protocol):
    """Interface of an attention function.

    Args:
        qkv: (B, D, H, W, 3, heads, head_dim), padded to whole windows.
        bias_table: (offsets, heads).
        geometry: How the grid is partitioned into windows.

    Returns:
        (B, D, H, W, heads * head_dim).
    """

    def __call__(self, qkv: Tensor, bias_table: Tensor, geometry: WindowGeometry) -> Tensor: ...


def box_attention(
    qkv: Tensor,
    bias_table: Tensor,
    geometry: WindowGeometry,
    attend: Callable[[Tensor, Tensor, Tensor, Tensor], Tensor] = F.scaled_dot_product_attention,
) -> Tensor:
    """Attend inside each window without rolling or masking; the default `attention` of VideoSwin.

    Boxes of one shape are gathered together and share one position bias.

    Args:
        qkv: (B, D, H, W, 3, heads, head_dim), padded to whole windows.
        bias_table: (offsets, heads).
        geometry: How the grid is partitioned into windows.
        attend: Computes softmax(q k / sqrt(head_dim) + bias) v for q, k, v (B*boxes, heads, N, head_dim) and
            bias (1, heads, N, N).

    Returns:
        (B, D, H, W, heads * head_dim).
    """
    b, d, h, w, _, heads, head_dim = qkv.shape
    tokens = qkv.flatten(1, 3)  # (B, D*H*W, 3, heads, head_dim)
    outputs = []
    for boxes in geometry.boxes:
        bias = box_bias(bias_table, boxes, qkv.dtype)  # (1, heads, N, N)
        gathered = tokens.index_select(1, boxes.tokens)  # (B, boxes*N, 3, heads, head_dim)
        gathered = gathered.view(-1, bias.shape[-1], 3, heads, head_dim)  # (B*boxes, N, 3, heads, head_dim)
        q, k, v = gathered.permute(2, 0, 3, 1, 4)  # each (B*boxes, heads, N, head_dim)
        out = attend(q, k, v, bias).transpose(1, 2)  # (B*boxes, N, heads, head_dim)
        outputs.append(out.reshape(b, -1, heads * head_dim))  # (B, boxes*N, C)
    restored = torch.cat(outputs, dim=1).index_select(1, geometry.restore)  # (B, D*H*W, C)
    return restored.view(b, d, h, w, heads * head_dim)


def box_bias(bias_table: Tensor, boxes: Boxes, dtype: torch.dtype) -> Tensor:
    """Return (1, heads, N, N): the position bias of all token pairs in a box of this shape.

    Args:
        bias_table: (offsets, heads).
        boxes: Boxes of one shape with N tokens each.
        dtype: Type of the result.
    """
    table = bias_table.to(dtype).t().contiguous()  # (heads, offsets)
    # Indexing and `gather` have the same result. The gradient of indexing is deterministic on CUDA but not on
    # several threads of a CPU; that of `gather` is deterministic on CPUs but not on CUDA.
    if table.is_cuda:
        return table[:, boxes.bias_index][None]
    pairs = boxes.bias_index.flatten().expand(len(table), -1)  # (heads, N*N)
    return table.gather(1, pairs).view(1, len(table), *boxes.bias_index.shape)


class WindowAttention(nn.Module):
    """Multi-head self-attention inside (shifted) 3D windows with a trainable relative position bias."""

    def __init__(
        self, dim: int, heads: int, window: Grid, shift: Grid, *, sliced_bias: bool, attention: AttentionFn
    ) -> None:
        """Create the layers; the bias table is zero.

        Args:
            dim: Channels of a token, C.
            heads: Attention heads; a divisor of `dim`.
            window: Tokens of a window along time, height and width.
            shift: Shift of the windows in tokens along the same axes; (0, 0, 0) is no shift.
            sliced_bias: Whether clipped windows use `sliced_position_index`.
            attention: Function that computes the attention, such as `box_attention`.
        """
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
