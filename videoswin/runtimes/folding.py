"""Layer norms without weight and bias: both become part of the linear layer that follows.

Runtimes that compute a layer norm in several passes are left with fewer. Answers stay the same to rounding.
"""

from __future__ import annotations

import torch
from torch import nn

from videoswin.model.swin import Block, Stage, VideoSwin
from videoswin.model.windows import Grid, clip_window, padded_grid


@torch.no_grad()
def fold_norms(model: VideoSwin, grid: Grid) -> None:
    """Fold every layer norm of the model that a linear layer follows, in place.

    grid: tokens along time, height and width that the first stage will get. Where it is not made of whole
    windows, tokens of zeros come between norm and attention, and would get the bias: that norm stays.
    """
    for stage in model.stages:
        assert isinstance(stage, Stage)
        for block in stage.blocks:
            assert isinstance(block, Block)
            window, _ = clip_window(grid, block.attn.window, block.attn.shift)
            if padded_grid(grid, window) == grid:
                block.norm1 = _folded(block.norm1, block.attn.qkv)
            block.norm2 = _folded(block.norm2, block.mlp.fc1)
        if stage.downsample is not None:
            stage.downsample.norm = _folded(stage.downsample.norm, stage.downsample.reduction)
            grid = (grid[0], -(-grid[1] // 2), -(-grid[2] // 2))
    # The mean over tokens stands between, which does not care.
    model.norm = _folded(model.norm, model.head)


def _folded(norm: nn.LayerNorm, following: nn.Linear) -> nn.LayerNorm:
    """A norm without weight and bias, which `following` has taken over."""
    bias = following.weight @ norm.bias
    following.bias = nn.Parameter(bias if following.bias is None else following.bias + bias)
    following.weight = nn.Parameter(following.weight * norm.weight)
    return nn.LayerNorm(norm.normalized_shape, norm.eps, elementwise_affine=False)
