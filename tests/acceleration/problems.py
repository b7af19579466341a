"""Attention problems for the kernels, and their float64 solutions by plain_attention."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from tests.model.reference import plain_attention
from videoswin.model.windows import Grid, WindowGeometry, bias_table_rows, window_geometry

WINDOWS: dict[str, tuple[Grid, Grid, Grid]] = {
    "plain": ((4, 4, 6), (2, 2, 3), (0, 0, 0)),
    "shifted in time": ((6, 2, 2), (2, 2, 2), (1, 1, 1)),
    "shifted in height": ((2, 6, 2), (2, 3, 2), (1, 1, 1)),
    "shifted in width": ((2, 2, 6), (2, 2, 3), (1, 1, 1)),
    "shifted in time and height": ((4, 6, 2), (2, 3, 2), (1, 1, 1)),
    "shifted in time and width": ((4, 2, 6), (2, 2, 3), (1, 1, 1)),
    "shifted in height and width": ((2, 6, 4), (2, 3, 2), (1, 1, 1)),
    "shifted everywhere": ((4, 6, 6), (2, 3, 3), (1, 1, 1)),
    "clipped": ((1, 5, 2), (2, 2, 3), (1, 1, 1)),
    "padded": ((3, 4, 5), (2, 3, 3), (1, 1, 1)),
    "one token": ((2, 2, 2), (1, 1, 1), (0, 0, 0)),
    "two tiles of keys": ((6, 4, 4), (3, 4, 4), (1, 2, 2)),
    "several tiles and a tail": ((4, 4, 10), (4, 4, 5), (2, 2, 2)),
}
"""Grid (before padding), window and shift of every kind that the model meets."""


@dataclass(frozen=True)
class Problem:
    """Random numbers for one attention, float64."""

    geometry: WindowGeometry
    qkv: Tensor
    """(B, D, H, W, 3, heads, head_dim)"""
    table: Tensor
    """(offsets, heads)"""
    upstream: Tensor
    """(B, D, H, W, heads * head_dim): gradient of what comes out."""

    def answer(self) -> Tensor:
        """The paper's, (B, D, H, W, heads * head_dim)."""
        return plain_attention(self.qkv, self.table, self.geometry)

    def gradients(self) -> tuple[Tensor, Tensor]:
        """The paper's, of qkv and table."""
        qkv, table = self.qkv.clone().requires_grad_(), self.table.clone().requires_grad_()
        qkv_gradient, table_gradient = torch.autograd.grad(
            plain_attention(qkv, table, self.geometry), (qkv, table), self.upstream
        )
        return qkv_gradient, table_gradient


def problem(
    grid: Grid,
    window: Grid,
    shift: Grid,
    *,
    sliced_bias: bool = False,
    batch: int = 1,
    heads: int = 2,
    width: int = 16,
    device: str = "cpu",
) -> Problem:
    """The same numbers for the same arguments."""
    geometry = window_geometry(grid, window, shift, sliced_bias, torch.device(device))
    generator = torch.Generator().manual_seed(math.prod(grid))

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, dtype=torch.float64, generator=generator).to(device)

    return Problem(
        geometry=geometry,
        qkv=normal(batch, *geometry.grid, 3, heads, width),
        table=normal(bias_table_rows(window), heads),
        upstream=normal(batch, *geometry.grid, heads * width),
    )


def error(ours: Tensor, theirs: Tensor) -> float:
    """Largest difference, relative to the largest number of `theirs` where that is above 1."""
    return float((ours.double() - theirs).abs().max() / theirs.abs().max().clamp(min=1.0))
