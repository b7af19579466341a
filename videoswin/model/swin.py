"""VideoSwin: patch embedding, stages of window attention with patch merging in between, and a linear head.

Legend: B batch, T H W frames and pixels, D H W token grid of a layer, T' H' W' token grid of the last stage,
C channels (C' after the last stage), K classes. Tokens are channels-last, (B, D, H, W, C), from the patch
embedding to the head, so that no layer permutes them.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from videoswin.model.attention import AttentionFn, WindowAttention, box_attention
from videoswin.model.config import MLP_RATIO, PATCH, VideoSwinConfig
from videoswin.model.windows import Grid, pad_axes


class PatchEmbed(nn.Module):
    """Embed each 2 x 4 x 4 block of pixels as one token: a linear layer, then LayerNorm."""

    def __init__(self, in_channels: int, dim: int) -> None:
        super().__init__()
        self.proj = nn.Conv3d(in_channels, dim, kernel_size=PATCH, stride=PATCH)
        self.norm = nn.LayerNorm(dim)

    def forward(self, clips: Tensor) -> Tensor:
        """Embed clips (B, in, T, H, W) -> (B, D, H, W, C), the grid of `token_grid`."""
        return self.embed(extract_patches(clips), self.proj.weight, self.proj.bias)

    def embed(self, patches: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """Embed patches (B, D, H, W, in * 32) -> (B, D, H, W, C) with these weights of the linear layer."""
        tokens: Tensor = self.norm(F.linear(patches, weight.flatten(1), bias))
        return tokens


def token_grid(size: Grid) -> Grid:
    """Return the tokens along time, height and width of clips of `size` (frames, rows, columns)."""
    d, h, w = (-(-length // patch) for length, patch in zip(size, PATCH, strict=True))
    return d, h, w


def extract_patches(clips: Tensor) -> Tensor:
    """Group pixels by token, zero-padded if needed: (B, in, T, H, W) -> (B, D, H, W, in * 32).

    A function of its own for PixelModel, which embeds uint8 patches with other weights than `proj`.
    """
    # Kernel equals stride, so the convolution is a matrix product with channels-last output.
    b, channels, *size = clips.shape
    d, h, w = token_grid((size[0], size[1], size[2]))
    clips = pad_axes(clips, (d * PATCH[0], h * PATCH[1], w * PATCH[2]), first=2)
    clips = clips.reshape(b, channels, d, PATCH[0], h, PATCH[1], w, PATCH[2])
    return clips.permute(0, 2, 4, 6, 1, 3, 5, 7).reshape(b, d, h, w, -1)


class MLP(nn.Module):
    """Two linear layers with exact GELU in between."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, MLP_RATIO * dim)
        self.fc2 = nn.Linear(MLP_RATIO * dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        """Apply the MLP: (..., C) -> (..., C)."""
        out: Tensor = self.fc2(F.gelu(self.fc1(x)))
        return out


class Block(nn.Module):
    """Transformer block: x + attention(norm(x)), then x + mlp(norm(x)), both with drop path in training."""

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
        """Apply the block: (B, D, H, W, C) -> (B, D, H, W, C)."""
        return self.add_mlp(self.add_attention(x))

    def add_attention(self, x: Tensor) -> Tensor:
        """Add the attention branch to the tokens: (B, D, H, W, C) -> (B, D, H, W, C)."""
        return x + self._drop_path(self.attn(self.norm1(x)))

    def add_mlp(self, x: Tensor) -> Tensor:
        """Add the MLP branch to the tokens: (B, D, H, W, C) -> (B, D, H, W, C)."""
        return x + self._drop_path(self.mlp(self.norm2(x)))

    def _drop_path(self, x: Tensor) -> Tensor:
        """In training, zero the branch for random clips and scale the others to keep the expected value."""
        if not self.training or self.drop_path == 0.0:
            return x
        keep = 1.0 - self.drop_path
        return x * x.new_empty(len(x), 1, 1, 1, 1).bernoulli_(keep).div_(keep)


class PatchMerging(nn.Module):
    """Merge each 2 x 2 spatial neighborhood into one token with twice the channels; time is not reduced."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(4 * dim)
        self.reduction = nn.Linear(4 * dim, 2 * dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Merge tokens: (B, D, H, W, C) -> (B, D, ceil(H/2), ceil(W/2), 2C)."""
        b, d, h, w, c = x.shape
        x = pad_axes(x, (d, h + h % 2, w + w % 2))
        x = x.reshape(b, d, -(-h // 2), 2, -(-w // 2), 2, c)
        # Column-major, as the published weights expect: top left, bottom left, top right, bottom right.
        corners = x.permute(0, 1, 2, 4, 5, 3, 6).flatten(4)  # (B, D, H/2, W/2, 4C)
        merged: Tensor = self.reduction(self.norm(corners))
        return merged


class Stage(nn.Module):
    """Blocks at one resolution with alternating regular and shifted windows, then patch merging."""

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
        unshifted, (p, m, n) = (0, 0, 0), config.window
        self.blocks = nn.ModuleList(
            Block(
                dim,
                heads,
                config.window,
                (p // 2, m // 2, n // 2) if block % 2 else unshifted,
                sliced_bias=config.sliced_bias,
                drop_path=drop_path,
                attention=attention,
            )
            for block, drop_path in enumerate(drop_paths)
        )
        last = index == len(config.depths) - 1
        self.downsample = None if last else PatchMerging(dim)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the output of the blocks, (B, D, H, W, C) as `x`, and the input of the next stage."""
        for block in self.blocks:
            # Recomputation in the backward pass stores one tensor per block instead of a dozen.
            recompute = self.grad_checkpointing and torch.is_grad_enabled()
            x = checkpoint(block, x, use_reentrant=False) if recompute else block(x)
        return x, (x if self.downsample is None else self.downsample(x))


class VideoSwin(nn.Module):
    """Video Swin Transformer (Liu et al. 2021): normalized clips to class logits.

    Example:
        logits = VideoSwin(TINY)(torch.randn(1, 3, 32, 224, 224))  # (1, 400)
    """

    def __init__(
        self,
        config: VideoSwinConfig,
        *,
        drop_path: float = 0.0,
        dropout: float = 0.0,
        grad_checkpointing: bool = False,
        attention: AttentionFn = box_attention,
    ) -> None:
        """Create a randomly initialized model; `Checkpoint.model()` returns one with weights.

        Args:
            config: Architecture.
            drop_path: Drop path rate of the last block, 0 <= rate < 1; it increases linearly from 0 at the
                first block.
            dropout: Dropout rate of the features before the head, 0 <= rate < 1 (published training: 0.5).
            grad_checkpointing: Recompute blocks in the backward pass to save memory.
            attention: Attention function of all blocks, see AttentionFn.

        Raises:
            ValueError: A rate is out of range.
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
        # On the meta device there are no values, and torch would import its compiler to initialize them.
        if not self.head.weight.is_meta:
            initialize(self)

    def forward(self, clips: Tensor) -> Tensor:
        """Classify normalized clips (B, in, T, H, W), floating point, any T, H, W >= 1 -> logits (B, K)."""
        self._check(clips)
        return self.forward_head(self.encode(self.patch_embed(clips)))

    def encode(self, tokens: Tensor) -> Tensor:
        """Return the last stage's normalized tokens (B, T', H', W', C') for embedded ones (B, D, H, W, C)."""
        return self._stage_outputs(tokens)[-1]

    def forward_features(self, clips: Tensor) -> Tensor:
        """Return the normalized tokens of the last stage: clips as for `forward` -> (B, T', H', W', C)."""
        self._check(clips)
        return self.encode(self.patch_embed(clips))

    def forward_head(self, features: Tensor, *, pre_logits: bool = False) -> Tensor:
        """Pool and classify what `forward_features` returns: (B, T', H', W', C) -> (B, K).

        Args:
            features: Tokens of the last stage.
            pre_logits: Return the pooled features (B, C) before the classifier instead.
        """
        pooled: Tensor = self.dropout(features.flatten(1, 3).mean(1))
        return pooled if pre_logits else self.head(pooled)

    def token_logits(self, clips: Tensor) -> Tensor:
        """Return the logits of every token: clips as for `forward` -> (B, K, T', H', W').

        The head is linear and follows a mean, so the mean over T', H', W' is `forward(clips)` up to rounding.
        There is no dropout.
        """
        logits: Tensor = self.head(self.forward_features(clips))  # (B, T', H', W', K)
        return logits.movedim(-1, 1)

    def get_classifier(self) -> nn.Linear:
        """Return the head."""
        return self.head

    def reset_classifier(self, num_classes: int) -> None:
        """Replace the head by a new one for `num_classes` classes, in place."""
        self.config = self.config.replace(num_classes=num_classes)
        old = self.head.weight
        self.head = nn.Linear(self.config.feature_dim, num_classes, device=old.device, dtype=old.dtype)
        nn.init.normal_(self.head.weight, std=0.01)
        nn.init.zeros_(self.head.bias)

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Recompute blocks in the backward pass, or not: less memory, a third more time."""
        for stage in self.stages:
            stage.grad_checkpointing = enable  # type: ignore[assignment]

    @property
    def feature_info(self) -> list[dict[str, Any]]:
        """Describe the maps of `feature_maps`: channels, reduction in (time, height, width), module."""
        time, *space = PATCH
        return [
            {
                "num_chs": self.config.stage_dim(stage),
                "reduction": (time, *(side * 2**stage for side in space)),
                "module": f"stages.{stage}",
            }
            for stage in range(len(self.config.depths))
        ]

    def feature_maps(self, clips: Tensor) -> list[Tensor]:
        """Return the output of each stage, (B, C_i, D, H_i, W_i), finest first, for clips as in `forward`.

        Only the last one has passed the model's final norm; see StageNorms.
        """
        self._check(clips)
        return [tokens.movedim(-1, 1) for tokens in self._stage_outputs(self.patch_embed(clips))]

    def _stage_outputs(self, x: Tensor) -> list[Tensor]:
        outputs = []
        for stage in self.stages:
            output, x = stage(x)
            outputs.append(output)
        outputs[-1] = self.norm(x)
        return outputs

    def _check(self, clips: Tensor) -> None:
        requirement = f"clips must be (batch, {self.config.in_channels}, frames, height, width)"
        if clips.ndim != 5 or clips.shape[1] != self.config.in_channels:
            raise ValueError(f"{requirement}, got {tuple(clips.shape)}")
        if min(clips.shape) < 1:
            raise ValueError(f"{requirement} with no empty axis, got {tuple(clips.shape)}")
        if not clips.is_floating_point():
            raise ValueError(f"clips must be normalized and floating point, got {clips.dtype}")


class StageNorms(nn.Module):
    """Apply a LayerNorm to each map of `VideoSwin.feature_maps`, for the neck or head of another task.

    The last map keeps the model's own norm. The other norms are initialized with weight 1 and bias 0, because
    no published weights have them, and need training.

    Source: mmaction2's backbone with several `out_indices`.

    Example:
        norms = StageNorms(model.config)
        maps = norms(model.feature_maps(clips))
    """

    def __init__(self, config: VideoSwinConfig) -> None:
        super().__init__()
        dims = map(config.stage_dim, range(len(config.depths) - 1))
        self.norms = nn.ModuleList(nn.LayerNorm(dim) for dim in dims)

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        """Normalize one map per stage over its channels: (B, C_i, D, H_i, W_i) -> the same shape."""
        *inner, last = maps
        pairs = zip(self.norms, inner, strict=True)
        return [norm(tokens.movedim(1, -1)).movedim(-1, 1) for norm, tokens in pairs] + [last]


def freeze_stages(model: VideoSwin, count: int) -> None:
    """Freeze the patch embedding and the first `count` stages in place.

    Drop path of frozen blocks is disabled, because `frozen_stages` of the official code and mmaction2 puts
    them into eval mode.

    Args:
        model: Model to change.
        count: `frozen_stages` of these libraries: -1 freezes nothing, 0 only the patch embedding.

    Raises:
        ValueError: The model has fewer stages.
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
    """Initialize a newly created model in place, as the official code does to train from image weights.

    linear weights and bias tables   truncated normal, std 0.02
    linear biases                    0
    head                             normal, std 0.01; bias 0
    layer norms                      as created: weight 1, bias 0
    patch embedding                  as created: torch's default for convolutions
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


def initialize_from_scratch(model: VideoSwin) -> None:
    """Initialize a newly created model to train without pretraining, where `initialize` keeps NANO at chance.

    Linear weights are Xavier uniform, patch embedding Kaiming normal, biases 0; others stay as created.
    """
    for module in model.modules():
        if isinstance(module, nn.Linear):
            nn.init.xavier_uniform_(module.weight)
    nn.init.kaiming_normal_(model.patch_embed.proj.weight, nonlinearity="linear")
    for name, parameter in model.named_parameters():
        if name.endswith(".bias"):
            nn.init.zeros_(parameter)
