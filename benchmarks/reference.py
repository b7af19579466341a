"""Video Swin as the official code computes it, step by step: the baseline of the benchmarks.

Rewritten after Video-Swin-Transformer, mmaction/models/backbones/swin_transformer.py: padding after the norm,
a cyclic roll, window partition before the linear projection to q, k and v, full attention logits, the bias
gathered in every pass, a mask of -100, window merge and reverse roll, channels first between stages. Only the
regularization (dropout, drop path) is omitted.

Legend: B batch, D H W grid of tokens, C channels, N tokens per window.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from videoswin.model.config import MLP_RATIO, PATCH, VideoSwinConfig

Sizes = tuple[int, int, int]
Attend = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor | None], Tensor]
"""q, k, v (B * windows, heads, N, d), bias (heads, N, N), mask (windows, N, N) or None -> the shape of q."""


def materialised(q: Tensor, k: Tensor, v: Tensor, bias: Tensor, mask: Tensor | None) -> Tensor:
    """Compute attention like the official code, which writes all logits and weights to memory."""
    logits = (q * q.shape[-1] ** -0.5) @ k.transpose(-2, -1)  # (B * windows, heads, N, N)
    logits = logits + bias.unsqueeze(0)
    if mask is not None:
        windows, n, _ = mask.shape
        logits = logits.view(-1, windows, len(bias), n, n) + mask.unsqueeze(1).unsqueeze(0)
        logits = logits.view(-1, len(bias), n, n)
    return logits.softmax(-1).to(v.dtype) @ v


def fused_with_full_mask(q: Tensor, k: Tensor, v: Tensor, bias: Tensor, mask: Tensor | None) -> Tensor:
    """Compute attention like timm's Swin: a fused kernel with bias plus mask for every window and head."""
    # A float32 mask with half-precision queries silently gives wrong results on some backends.
    full = bias.unsqueeze(0).to(q.dtype)  # (1, heads, N, N)
    if mask is not None:
        windows, n, _ = mask.shape
        expanded = mask.to(q.dtype).view(1, windows, 1, n, n).expand(len(q) // windows, -1, len(bias), -1, -1)
        full = full + expanded.reshape(-1, len(bias), n, n)  # (B * windows, heads, N, N)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=full)


def stage_mask(grid: Sizes, window: Sizes, dtype: torch.dtype) -> Tensor | None:
    """Return the mask of the shifted blocks of a stage on this grid, or None without a shift."""
    clipped, shift = _clipped(grid, window)
    if not any(shift):
        return None
    return _mask(_rounded_up(grid, clipped), clipped, shift, torch.device("cpu")).added.to(dtype)


class ReferenceVideoSwin(nn.Module):
    """Reference model; it loads the state dict of `VideoSwin`, and logits are those of `sliced_bias=True`."""

    def __init__(self, config: VideoSwinConfig, attend: Attend = materialised) -> None:
        super().__init__()
        self.patch_embed = _PatchEmbed(config.in_channels, config.embed_dim)
        self.stages = nn.ModuleList(
            _Stage(config, index, attend, last=index == len(config.depths) - 1)
            for index in range(len(config.depths))
        )
        self.norm = nn.LayerNorm(config.feature_dim)
        self.head = nn.Linear(config.feature_dim, config.num_classes)

    def forward(self, clips: Tensor) -> Tensor:
        """(B, in, T, H, W) -> logits (B, K)."""
        x = self.patch_embed(clips)  # (B, C, D, H, W)
        for stage in self.stages:
            x = stage(x)
        x = self.norm(x.permute(0, 2, 3, 4, 1)).permute(0, 4, 1, 2, 3)
        logits: Tensor = self.head(F.adaptive_avg_pool3d(x, 1).flatten(1))
        return logits


class _PatchEmbed(nn.Module):
    def __init__(self, in_channels: int, dim: int) -> None:
        super().__init__()
        self.proj = nn.Conv3d(in_channels, dim, kernel_size=PATCH, stride=PATCH)
        self.norm = nn.LayerNorm(dim)

    def forward(self, x: Tensor) -> Tensor:
        """(B, in, T, H, W) -> (B, C, D, H, W)."""
        missing = [-size % patch for size, patch in zip(x.shape[2:], PATCH, strict=True)]
        if any(missing):
            x = F.pad(x, (0, missing[2], 0, missing[1], 0, missing[0]))
        x = self.proj(x)
        size = x.shape[2:]
        x = self.norm(x.flatten(2).transpose(1, 2))  # (B, D * H * W, C)
        return x.transpose(1, 2).view(len(x), -1, *size)


class _Stage(nn.Module):
    def __init__(self, config: VideoSwinConfig, index: int, attend: Attend, *, last: bool) -> None:
        super().__init__()
        dim, heads = config.stage_dim(index), config.num_heads[index]
        self.window: Sizes = config.window
        self.blocks = nn.ModuleList(
            _Block(dim, heads, config.window, block % 2 == 1, attend) for block in range(config.depths[index])
        )
        self.downsample = None if last else _PatchMerging(dim)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, D, H, W) -> (B, C, D, H, W), or (B, 2C, D, H/2, W/2) before another stage."""
        d, h, w = x.shape[2:]
        window, shift = _clipped((d, h, w), self.window)
        padded = _rounded_up((d, h, w), window)
        mask = _mask(padded, window, shift, x.device).added if any(shift) else None
        x = x.permute(0, 2, 3, 4, 1)
        for block in self.blocks:
            x = block(x, mask)
        if self.downsample is not None:
            x = self.downsample(x)
        return x.permute(0, 4, 1, 2, 3)


class _Block(nn.Module):
    def __init__(self, dim: int, heads: int, window: Sizes, shifted: bool, attend: Attend) -> None:
        super().__init__()
        self.window = window
        self.shifted = shifted
        self.norm1 = nn.LayerNorm(dim)
        self.attn = _Attention(dim, heads, window, attend)
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = _MLP(dim)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """(B, D, H, W, C) -> (B, D, H, W, C)."""
        x = x + self.attended(self.norm1(x), mask)
        return x + self.mlp(self.norm2(x))

    def attended(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """Return the output of attention alone, including padding and its removal."""
        b, d, h, w = x.shape[:4]
        window, shift = _clipped((d, h, w), self.window)
        padded = _rounded_up((d, h, w), window)
        x = F.pad(x, (0, 0, 0, padded[2] - w, 0, padded[1] - h, 0, padded[0] - d))
        rolled = self.shifted and any(shift)
        if rolled:
            x = torch.roll(x, [-s for s in shift], dims=(1, 2, 3))
        windows = _cut(x, window)  # (B * windows, N, C)
        windows = self.attn(windows, mask if rolled else None)
        x = _put_together(windows, window, b, padded)  # (B, *padded, C)
        if rolled:
            x = torch.roll(x, shift, dims=(1, 2, 3))
        return x[:, :d, :h, :w].contiguous()


class _Attention(nn.Module):
    relative_position_index: Tensor

    def __init__(self, dim: int, heads: int, window: Sizes, attend: Attend) -> None:
        super().__init__()
        self.heads = heads
        self.attend = attend
        p, m, n = window
        self.relative_position_bias_table = nn.Parameter(
            torch.zeros((2 * p - 1) * (2 * m - 1) * (2 * n - 1), heads)
        )
        self.register_buffer("relative_position_index", _position_index(window), persistent=False)
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """(B * windows, N, C) -> the same."""
        count, n, c = x.shape
        q, k, v = self.qkv(x).reshape(count, n, 3, self.heads, c // self.heads).permute(2, 0, 3, 1, 4)
        index = self.relative_position_index[:n, :n].reshape(-1)
        bias = self.relative_position_bias_table[index].reshape(n, n, -1).permute(2, 0, 1).contiguous()
        out = self.attend(q, k, v, bias, mask)
        projected: Tensor = self.proj(out.transpose(1, 2).reshape(count, n, c))
        return projected


class _MLP(nn.Module):
    def __init__(self, dim: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, MLP_RATIO * dim)
        self.fc2 = nn.Linear(MLP_RATIO * dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.fc2(F.gelu(self.fc1(x)))
        return out


class _PatchMerging(nn.Module):
    def __init__(self, dim: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(4 * dim)
        self.reduction = nn.Linear(4 * dim, 2 * dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(B, D, H, W, C) -> (B, D, ceil(H/2), ceil(W/2), 2C)."""
        x = F.pad(x, (0, 0, 0, x.shape[3] % 2, 0, x.shape[2] % 2))
        corners = [x[:, :, row::2, column::2] for column in (0, 1) for row in (0, 1)]
        merged: Tensor = self.reduction(self.norm(torch.cat(corners, -1)))
        return merged


def _clipped(grid: Sizes, window: Sizes) -> tuple[Sizes, Sizes]:
    """Return window and shift on this grid; an axis that one window covers is not shifted."""
    p, m, n = (min(size, length) for size, length in zip(window, grid, strict=True))
    i, j, k = (size // 2 if length > size else 0 for size, length in zip(window, grid, strict=True))
    return (p, m, n), (i, j, k)


def _rounded_up(grid: Sizes, window: Sizes) -> Sizes:
    d, h, w = (length + -length % size for length, size in zip(grid, window, strict=True))
    return d, h, w


def _cut(x: Tensor, window: Sizes) -> Tensor:
    """(B, D, H, W, C) -> (B * windows, N, C)."""
    b, d, h, w, c = x.shape
    p, m, n = window
    x = x.view(b, d // p, p, h // m, m, w // n, n, c)
    return x.permute(0, 1, 3, 5, 2, 4, 6, 7).reshape(-1, p * m * n, c)


def _put_together(windows: Tensor, window: Sizes, batch: int, grid: Sizes) -> Tensor:
    """(B * windows, N, C) -> (B, D, H, W, C)."""
    (p, m, n), (d, h, w) = window, grid
    x = windows.view(batch, d // p, h // m, w // n, p, m, n, -1)
    return x.permute(0, 1, 4, 2, 5, 3, 6, 7).reshape(batch, d, h, w, -1)


@dataclass(frozen=True)
class _Mask:
    """A mask that torch.compile treats as a constant; a plain tensor works for one call per graph only."""

    added: Tensor
    """(windows, N, N)"""


@torch.compiler.assume_constant_result
def _mask(grid: Sizes, window: Sizes, shift: Sizes, device: torch.device) -> _Mask:
    return _kept_mask(grid, window, shift, device)


# The official code caches its masks, too; computing them in each pass would be unfairly slow.
@lru_cache(maxsize=32)
def _kept_mask(grid: Sizes, window: Sizes, shift: Sizes, device: torch.device) -> _Mask:
    """Return the mask: -100 for pairs of tokens that are adjacent only because of the roll, else 0."""
    # Inference tensors could not be used in a later training step.
    with torch.inference_mode(False):
        region = torch.zeros(1, *grid, 1, device=device)
        number = 0
        for depth in _thirds(window[0], shift[0]):
            for row in _thirds(window[1], shift[1]):
                for column in _thirds(window[2], shift[2]):
                    region[:, depth, row, column] = number
                    number += 1
        regions = _cut(region, window).squeeze(2)  # (windows, N)
        apart = regions[:, None, :] - regions[:, :, None]
        return _Mask(torch.zeros_like(apart).masked_fill(apart != 0, -100.0))


def _thirds(window: int, shift: int) -> tuple[slice, slice, slice]:
    """Return three slices of a shifted axis: all but the last window, and the two parts of the last one."""
    return slice(-window), slice(-window, -shift), slice(-shift, None)


def _position_index(window: Sizes) -> Tensor:
    """Return the row of the bias table for each pair of tokens of a full window, (N, N)."""
    p, m, n = window
    places = torch.cartesian_prod(torch.arange(p), torch.arange(m), torch.arange(n)).view(-1, 3)
    offset = places[:, None] - places[None] + torch.tensor([p - 1, m - 1, n - 1])  # (N, N, 3)
    return (offset * torch.tensor([(2 * m - 1) * (2 * n - 1), 2 * n - 1, 1])).sum(-1)
