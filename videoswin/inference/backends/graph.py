"""Trace a checkpoint as one graph of basic operations that every runtime supports.

Frames and size are fixed and the batch is dynamic, so the token order is constant: the graph has no roll, no
padding of five axes and no lookups that depend on the input.

Legend: B batch, T frames, S side of a view, D H W token grid, L tokens of the padded grid, C channels =
heads * head_dim, N tokens per box, K classes.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from videoswin.inference.backends.pytorch import PixelModel
from videoswin.model.attention import WindowAttention, box_bias
from videoswin.model.swin import MLP, Block, PatchMerging, Stage, VideoSwin, token_grid
from videoswin.model.windows import Grid, WindowGeometry, clip_window, pad_axes, padded_grid, window_geometry
from videoswin.weights.checkpoint import Checkpoint


@torch.no_grad()
def fold_norms(model: VideoSwin, grid: Grid) -> None:
    """Fold weight and bias of each layer norm into the following linear layer, in place.

    The norm before attention is kept if the grid needs padding, because padding tokens must not get the bias.

    Args:
        model: Model to change.
        grid: Token grid (time, height, width) of the first stage.
    """
    for stage in model.stages:
        assert isinstance(stage, Stage)
        for block in stage.blocks:
            assert isinstance(block, Block)
            window, _ = clip_window(grid, block.attn.window, block.attn.shift)
            if padded_grid(grid, window) == grid:
                block.norm1 = _fold_norm(block.norm1, block.attn.qkv)
            block.norm2 = _fold_norm(block.norm2, block.mlp.fc1)
        if stage.downsample is not None:
            stage.downsample.norm = _fold_norm(stage.downsample.norm, stage.downsample.reduction)
            grid = (grid[0], -(-grid[1] // 2), -(-grid[2] // 2))
    # The mean over tokens in between commutes with the folding.
    model.norm = _fold_norm(model.norm, model.head)


def _fold_norm(norm: nn.LayerNorm, following: nn.Linear) -> nn.LayerNorm:
    """Fold the norm's weight and bias into `following`, and return a norm without them."""
    bias = following.weight @ norm.bias
    following.bias = nn.Parameter(bias if following.bias is None else following.bias + bias)
    following.weight = nn.Parameter(following.weight * norm.weight)
    return nn.LayerNorm(norm.normalized_shape, norm.eps, elementwise_affine=False)


def trace(
    checkpoint: Checkpoint, dtype: torch.dtype = torch.float32, *, pixel_dtype: torch.dtype = torch.uint8
) -> ExportedProgram:
    """Trace uint8 (B, 3, T, S, S) -> float32 logits (B, K), for T and S of the checkpoint's clip and any B.

    Args:
        checkpoint: Checkpoint with a head.
        dtype: Precision of weights and activations.
        pixel_dtype: Pixels are first cast to this type. Moving bytes is faster than moving floats, but
            TensorRT supports uint8 only as input of a cast.
    """
    model = checkpoint.model()
    size = (checkpoint.clip.frames, checkpoint.clip.size, checkpoint.clip.size)
    fold_norms(model, token_grid(size))
    for name, module in list(model.named_modules()):
        if isinstance(module, WindowAttention):
            model.set_submodule(name, _AttentionInBoxes(module))
        elif isinstance(module, MLP):
            model.set_submodule(name, _OnTokenLists(module))
        elif isinstance(module, PatchMerging):
            model.set_submodule(f"{name}.reduction", _OnTokenLists(module.reduction))
    pixel_model = PixelModel(model.to(dtype), checkpoint.clip.normalization)
    pixel_model_with_casts = _WithCasts(pixel_model, pixel_dtype).eval()
    example = torch.zeros(2, 3, *size, dtype=torch.uint8)
    with torch.no_grad():
        return torch.export.export(
            pixel_model_with_casts, (example,), dynamic_shapes={"pixels": {0: Dim("batch", min=1)}}
        )


class _WithCasts(nn.Module):
    """Cast the input of a model to `pixel_dtype` and its logits to float32."""

    def __init__(self, model: PixelModel, pixel_dtype: torch.dtype) -> None:
        super().__init__()
        self.model, self.pixel_dtype = model, pixel_dtype

    def forward(self, pixels: Tensor) -> Tensor:
        logits: Tensor = self.model(pixels.to(self.pixel_dtype)).float()
        return logits


class _OnTokenLists(nn.Module):
    """Apply a layer to tokens flattened to (B, L, C).

    OpenVINO fuses biases into int8 products of flattened tokens, but adds them separately for grids.
    """

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        """Apply the layer: (B, D, H, W, C) -> (B, D, H, W, C')."""
        b, d, h, w, _ = x.shape
        out: Tensor = self.layer(x.flatten(1, 3))
        return out.view(b, d, h, w, -1)


class _AttentionInBoxes(nn.Module):
    """WindowAttention that gathers its tokens first and has separate layers for query, key and value.

    Runtimes can then recognize and fuse attention, because only reshapes are between a linear layer and the
    product.
    """

    def __init__(self, attention: WindowAttention) -> None:
        super().__init__()
        self.heads, self.window, self.shift = attention.heads, attention.window, attention.shift
        self.sliced_bias = attention.sliced_bias
        self.relative_position_bias_table = attention.relative_position_bias_table
        self.proj = attention.proj
        weights = attention.qkv.weight.detach().chunk(3)
        biases = attention.qkv.bias.detach().chunk(3)
        self.qkv = nn.ModuleList(_linear(w, b) for w, b in zip(weights, biases, strict=True))

    def forward(self, x: Tensor) -> Tensor:
        """Attend inside windows: (B, D, H, W, C) -> (B, D, H, W, C)."""
        b, d, h, w, c = x.shape
        geometry: WindowGeometry = window_geometry(
            (d, h, w), self.window, self.shift, self.sliced_bias, x.device
        )
        padded = pad_axes(x, geometry.grid)
        order = torch.cat([boxes.tokens for boxes in geometry.boxes])
        tokens = padded.flatten(1, 3).index_select(1, order)  # (B, L, C), box by box
        lengths = [len(boxes.tokens) for boxes in geometry.boxes]
        q, k, v = (layer(tokens).split(lengths, dim=1) for layer in self.qkv)
        outputs = []
        for boxes, *parts in zip(geometry.boxes, q, k, v, strict=True):
            bias = box_bias(self.relative_position_bias_table, boxes, x.dtype)  # (1, heads, N, N)
            shape = (-1, bias.shape[-1], self.heads, c // self.heads)
            q_box, k_box, v_box = (
                part.reshape(shape).transpose(1, 2) for part in parts
            )  # (B*boxes, heads, N, head_dim)
            out = F.scaled_dot_product_attention(q_box, k_box, v_box, attn_mask=bias)
            outputs.append(out.transpose(1, 2).reshape(b, len(boxes.tokens), c))
        projected: Tensor = self.proj(torch.cat(outputs, dim=1))
        # Selecting only real tokens also removes the padding.
        return projected.index_select(1, _real_tokens(geometry, (d, h, w))).view(b, d, h, w, c)


def _real_tokens(geometry: WindowGeometry, grid: tuple[int, int, int]) -> Tensor:
    """Return (D * H * W): the position of each token of the unpadded grid in the order of the boxes."""
    d, h, w = grid
    return geometry.restore.view(geometry.grid)[:d, :h, :w].flatten()


def _linear(weight: Tensor, bias: Tensor) -> nn.Linear:
    layer = nn.Linear(weight.shape[1], weight.shape[0], device="meta")
    layer.weight, layer.bias = nn.Parameter(weight), nn.Parameter(bias)
    return layer
