"""The model as one graph of plain operations, which every runtime takes: pixels in, logits out, any batch.

Without roll, without padding of five axes, without lookups that depend on the input: frames and size are
fixed, so which token goes where is known beforehand.

Legend: B batch, L tokens of the padded grid, C = heads * d channels, N tokens per box.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from videoswin.inference.pixels import PixelModel
from videoswin.model.attention import WindowAttention, box_bias
from videoswin.model.swin import MLP, Block, PatchMerging, Stage, VideoSwin, token_grid
from videoswin.model.windows import Grid, WindowGeometry, clip_window, pad_axes, padded_grid, window_geometry
from videoswin.weights.checkpoint import Checkpoint


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


def trace(
    checkpoint: Checkpoint, dtype: torch.dtype = torch.float32, *, pixel_dtype: torch.dtype = torch.uint8
) -> ExportedProgram:
    """uint8 (B, 3, T, S, S) -> float32 logits (B, K), for the T and S of the checkpoint's clips and any B.

    pixel_dtype: what pixels are cast to before anything else. Moving bytes is faster than moving floats, but
        TensorRT takes uint8 for nothing but a cast.
    """
    model = checkpoint.model()
    size = (checkpoint.clip.frames, checkpoint.clip.size, checkpoint.clip.size)
    fold_norms(model, token_grid(size))
    for name, module in list(model.named_modules()):
        if isinstance(module, WindowAttention):
            model.set_submodule(name, _AttentionInBoxes(module))
        elif isinstance(module, MLP):
            model.set_submodule(name, _OfLists(module))
        elif isinstance(module, PatchMerging):
            model.set_submodule(f"{name}.reduction", _OfLists(module.reduction))
    pixel_model = PixelModel(model.to(dtype), checkpoint.clip.normalization)
    from_bytes = _CastAtBothEnds(pixel_model, pixel_dtype).eval()
    example = torch.zeros(2, 3, *size, dtype=torch.uint8)
    with torch.no_grad():
        return torch.export.export(
            from_bytes, (example,), dynamic_shapes={"pixels": {0: Dim("batch", min=1)}}
        )


class _CastAtBothEnds(nn.Module):
    """Pixels to what the model shall get, and logits to float32, whatever it computes in."""

    def __init__(self, model: PixelModel, pixel_dtype: torch.dtype) -> None:
        super().__init__()
        self.model, self.pixel_dtype = model, pixel_dtype

    def forward(self, pixels: Tensor) -> Tensor:
        logits: Tensor = self.model(pixels.to(self.pixel_dtype)).float()
        return logits


class _OfLists(nn.Module):
    """A layer that gets its tokens as a list, (B, L, C).

    OpenVINO adds biases inside int8 products of lists, and after those of grids in passes of their own.
    """

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, H, W, C) -> (B, T, H, W, C')."""
        b, t, h, w, _ = x.shape
        out: Tensor = self.layer(x.flatten(1, 3))
        return out.view(b, t, h, w, -1)


class _AttentionInBoxes(nn.Module):
    """WindowAttention with its tokens gathered first, and queries, keys and values from a layer each.

    Runtimes then find attention as they know it, and fuse it: nothing stands between a linear layer and the
    product but a change of shape.
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
        """(B, D, H, W, C) -> (B, D, H, W, C)."""
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
            )  # (B*boxes, heads, N, d)
            out = F.scaled_dot_product_attention(q_box, k_box, v_box, attn_mask=bias)
            outputs.append(out.transpose(1, 2).reshape(b, len(boxes.tokens), c))
        projected: Tensor = self.proj(torch.cat(outputs, dim=1))
        # Only real tokens are put back: this takes the padding away, too.
        return projected.index_select(1, _real_tokens(geometry, (d, h, w))).view(b, d, h, w, c)


def _real_tokens(geometry: WindowGeometry, grid: tuple[int, int, int]) -> Tensor:
    """(D * H * W): where each token of the unpadded grid stands in the order of the boxes."""
    d, h, w = grid
    return geometry.restore.view(geometry.grid)[:d, :h, :w].flatten()


def _linear(weight: Tensor, bias: Tensor) -> nn.Linear:
    layer = nn.Linear(weight.shape[1], weight.shape[0], device="meta")
    layer.weight, layer.bias = nn.Parameter(weight), nn.Parameter(bias)
    return layer
