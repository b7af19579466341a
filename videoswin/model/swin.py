"""The network: patch embedding, stages of window attention with patch merging between, and a linear head.

Legend: B batch, T H W frames, rows, columns of pixels or tokens, C channels, K classes. Tokens stay
channels-last, (B, T, H, W, C), from the patch embedding to the head, so no layer permutes.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from videoswin.model.attention import AttentionFn, WindowAttention, box_attention
from videoswin.model.config import MLP_RATIO, PATCH, VideoSwinConfig
from videoswin.model.cpu import CACHED_NUMBERS, fits_pieces, linear
from videoswin.model.windows import Grid, pad_axes


class PatchEmbed(nn.Module):
    """Every 2 x 4 x 4 block of pixels becomes one token: a linear map, then LayerNorm."""

    def __init__(self, in_channels: int, dim: int) -> None:
        super().__init__()
        self.proj = nn.Conv3d(in_channels, dim, kernel_size=PATCH, stride=PATCH)
        self.norm = nn.LayerNorm(dim)

    def forward(self, clips: Tensor) -> Tensor:
        """(B, in, T, H, W) -> (B, ceil(T/2), ceil(H/4), ceil(W/4), C); sizes that do not divide get zeros."""
        return self.embed(patches(clips), self.proj.weight, self.proj.bias)

    def embed(self, patches: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """(B, T', H', W', in * 32) -> (B, T', H', W', C), with these weights of the linear map."""
        tokens: Tensor = self.norm(F.linear(patches, weight.flatten(1), bias))
        return tokens


def token_grid(size: Grid) -> Grid:
    """Tokens along time, height and width of clips of `size` (frames, rows, columns)."""
    t, h, w = (-(-length // patch) for length, patch in zip(size, PATCH, strict=True))
    return t, h, w


def patches(clips: Tensor) -> Tensor:
    """The pixels of every token: (B, in, T, H, W) -> (B, ceil(T/2), ceil(H/4), ceil(W/4), in * 32)."""
    # Kernel equals stride, so the convolution is a matrix product whose output is channels-last at once.
    b, channels, *size = clips.shape
    t, h, w = token_grid((size[0], size[1], size[2]))
    clips = pad_axes(clips, (t * PATCH[0], h * PATCH[1], w * PATCH[2]), first=2)
    clips = clips.reshape(b, channels, t, PATCH[0], h, PATCH[1], w, PATCH[2])
    return clips.permute(0, 2, 4, 6, 1, 3, 5, 7).reshape(b, t, h, w, -1)


class MLP(nn.Module):
    """Two linear layers with exact GELU between."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, MLP_RATIO * dim)
        self.fc2 = nn.Linear(MLP_RATIO * dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        """(..., C) -> (..., C)."""
        if not fits_pieces(x):
            out: Tensor = self.fc2(F.gelu(self.fc1(x)))
            return out
        # The hidden layer is the largest tensor of the model: in pieces it stays in the processor's cache.
        pieces = torch.split(x.flatten(0, -2), max(1, CACHED_NUMBERS // self.fc1.out_features))
        return torch.cat([linear(linear(p, self.fc1, gelu=True), self.fc2) for p in pieces]).view(x.shape)


class Block(nn.Module):
    """x + attention(norm(x)), then x + mlp(norm(x)); drop path may skip either for a clip in training."""

    def __init__(
        self,
        dim: int,
        heads: int,
        window: Grid,
        shift: Grid,
        *,
        sliced_bias: bool,
        drop_path: float,
        attention: AttentionFn,
    ) -> None:
        super().__init__()
        self.drop_path = drop_path
        self.norm1 = nn.LayerNorm(dim)
        self.attn = WindowAttention(dim, heads, window, shift, sliced_bias=sliced_bias, attention=attention)
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = MLP(dim)

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, H, W, C) -> (B, T, H, W, C)."""
        return self.add_mlp(self.add_attention(x))

    def add_attention(self, x: Tensor) -> Tensor:
        """(B, T, H, W, C) -> the same: tokens, and what attention makes of them, added."""
        return x + self._drop_path(self.attn(self.norm1(x)))

    def add_mlp(self, x: Tensor) -> Tensor:
        """(B, T, H, W, C) -> the same: tokens, and what the MLP makes of them, added."""
        return x + self._drop_path(self.mlp(self.norm2(x)))

    def _drop_path(self, x: Tensor) -> Tensor:
        """In training: zero the branch for a random share of the clips, scale the rest to keep the mean."""
        if not self.training or self.drop_path == 0.0:
            return x
        keep = 1.0 - self.drop_path
        return x * x.new_empty(len(x), 1, 1, 1, 1).bernoulli_(keep).div_(keep)


class PatchMerging(nn.Module):
    """Each 2 x 2 spatial neighborhood becomes one token of twice the channels; time is never reduced."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(4 * dim)
        self.reduction = nn.Linear(4 * dim, 2 * dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, H, W, C) -> (B, T, ceil(H/2), ceil(W/2), 2C)."""
        b, t, h, w, c = x.shape
        x = pad_axes(x, (t, h + h % 2, w + w % 2))
        x = x.reshape(b, t, -(-h // 2), 2, -(-w // 2), 2, c)
        # Column by column, as the published weights expect: top left, bottom left, top right, bottom right.
        corners = x.permute(0, 1, 2, 4, 5, 3, 6).flatten(4)  # (B, T, H/2, W/2, 4C)
        merged: Tensor = self.reduction(self.norm(corners))
        return merged


class Stage(nn.Module):
    """Blocks at one resolution, on plain and shifted windows in turn, and the merging to the next one."""

    def __init__(
        self,
        config: VideoSwinConfig,
        index: int,
        *,
        drop_paths: list[float],
        attention: AttentionFn,
        grad_checkpointing: bool,
    ) -> None:
        super().__init__()
        self.grad_checkpointing = grad_checkpointing
        dim, heads = config.stage_dim(index), config.num_heads[index]
        plain, (p, m, n) = (0, 0, 0), config.window
        self.blocks = nn.ModuleList(
            Block(
                dim,
                heads,
                config.window,
                (p // 2, m // 2, n // 2) if block % 2 else plain,
                sliced_bias=config.sliced_bias,
                drop_path=drop_path,
                attention=attention,
            )
            for block, drop_path in enumerate(drop_paths)
        )
        last = index == len(config.depths) - 1
        self.downsample = None if last else PatchMerging(dim)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(B, T, H, W, C) -> the same shape, and the input of the next stage (itself if this is the last)."""
        for block in self.blocks:
            # Recomputing a block in the backward pass keeps one tensor per block instead of a dozen.
            recompute = self.grad_checkpointing and torch.is_grad_enabled()
            x = checkpoint(block, x, use_reentrant=False) if recompute else block(x)
        return x, (x if self.downsample is None else self.downsample(x))


class VideoSwin(nn.Module):
    """Video Swin Transformer (Liu et al. 2021): normalized clips to class logits."""

    def __init__(
        self,
        config: VideoSwinConfig,
        *,
        drop_path: float = 0.0,
        dropout: float = 0.0,
        grad_checkpointing: bool = False,
        attention: AttentionFn = box_attention,
    ) -> None:
        """A freshly initialized model; `Checkpoint.model()` gives one with weights.

        drop_path: chance of skipping the last block's branches in training; it rises from 0 at the first.
        dropout: chance of dropping a feature before the head in training (published training: 0.5).
        checkpointing: recompute blocks in the backward pass, for memory.
        attention: any function behind the seam of `videoswin.model.attention`.
        """
        super().__init__()
        for name, rate in (("drop_path", drop_path), ("dropout", dropout)):
            if not 0.0 <= rate < 1.0:
                raise ValueError(f"{name} must be in [0, 1), got {rate}")
        self.config = config
        self.patch_embed = PatchEmbed(config.in_channels, config.embed_dim)
        blocks = sum(config.depths)
        rates = iter([drop_path * block / max(blocks - 1, 1) for block in range(blocks)])
        self.stages = nn.ModuleList(
            Stage(
                config,
                index,
                drop_paths=[next(rates) for _ in range(depth)],
                attention=attention,
                grad_checkpointing=grad_checkpointing,
            )
            for index, depth in enumerate(config.depths)
        )
        self.norm = nn.LayerNorm(config.feature_dim)
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(config.feature_dim, config.num_classes)
        if not self.head.weight.is_meta:  # without numbers; there torch would import its compiler for them
            initialize(self)

    def forward(self, clips: Tensor) -> Tensor:
        """(B, in, T, H, W) floating point, normalized, any T, H, W >= 1 -> logits (B, K)."""
        self._check(clips)
        return self.classify(self.patch_embed(clips))

    def classify(self, tokens: Tensor) -> Tensor:
        """What the patch embedding gives, (B, T', H', W', C) -> logits (B, K)."""
        features = self._stage_outputs(tokens)[-1]  # (B, T', H", W", C")
        logits: Tensor = self.head(self.dropout(features.flatten(1, 3).mean(1)))
        return logits

    def feature_maps(self, clips: Tensor) -> list[Tensor]:
        """Clips as for `forward` -> one map a stage, (B, C_i, T', H_i, W_i), finest first; last normed."""
        self._check(clips)
        return [tokens.movedim(-1, 1) for tokens in self._stage_outputs(self.patch_embed(clips))]

    def _stage_outputs(self, x: Tensor) -> list[Tensor]:
        outputs = []
        for stage in self.stages:
            x, smaller = stage(x)
            outputs.append(x)
            x = smaller
        outputs[-1] = self.norm(x)
        return outputs

    def _check(self, clips: Tensor) -> None:
        wanted = f"clips must be (batch, {self.config.in_channels}, frames, height, width)"
        if clips.ndim != 5 or clips.shape[1] != self.config.in_channels:
            raise ValueError(f"{wanted}, got {tuple(clips.shape)}")
        if min(clips.shape) < 1:
            raise ValueError(f"{wanted} with no empty axis, got {tuple(clips.shape)}")
        if not clips.is_floating_point():
            raise ValueError(f"clips must be normalized floating point numbers, got {clips.dtype}")


class StageNorms(nn.Module):
    """A LayerNorm for each map of `VideoSwin.feature_maps`, for the neck or head of another task.

    As in mmaction2's backbone with several `out_indices`. The last map keeps the model's own norm. The others
    start with weight 1 and bias 0, as no published weights have them, and are to be trained.

    Example:
        norms = StageNorms(model.config)
        maps = norms(model.feature_maps(clips))
    """

    def __init__(self, config: VideoSwinConfig) -> None:
        super().__init__()
        self.norms = nn.ModuleList(
            nn.LayerNorm(config.stage_dim(stage)) for stage in range(len(config.depths) - 1)
        )

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        """One map a stage, (B, C_i, T', H_i, W_i) -> the same shapes, normalized over the channels."""
        *inner, last = maps
        normed = zip(self.norms, inner, strict=True)
        return [norm(tokens.movedim(1, -1)).movedim(-1, 1) for norm, tokens in normed] + [last]


def freeze_stages(model: VideoSwin, count: int) -> None:
    """Freeze the patch embedding and the first `count` stages, in place; -1 freezes nothing.

    Frozen blocks drop no paths either: `frozen_stages` of the official code and mmaction2 puts them into
    eval mode. ValueError if the model has fewer stages.
    """
    if not -1 <= count <= len(model.stages):
        raise ValueError(f"frozen_stages must be from -1 to {len(model.stages)}, got {count}")
    if count < 0:
        return
    for part in (model.patch_embed, *model.stages[:count]):
        part.requires_grad_(False)
        for module in part.modules():
            if isinstance(module, Block):
                module.drop_path = 0.0


def initialize(model: VideoSwin) -> None:
    """Initialize everything, in this one function, as the official code does for training from image weights.

    linear weights and bias tables   truncated normal, std 0.02
    linear biases                    0
    head                             normal, std 0.01; bias 0
    layer norms                      weight 1, bias 0
    patch embedding                  torch's default for convolutions
    """
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear):
            if name == "head":
                nn.init.normal_(module.weight, std=0.01)
            else:
                nn.init.trunc_normal_(module.weight, std=0.02)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, WindowAttention):
            nn.init.trunc_normal_(module.relative_position_bias_table, std=0.02)
