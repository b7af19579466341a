"""FusedBlock, a block for inference with few passes over its tokens, and its operators.

A block adds two branches, attention and the MLP, to its tokens. In a fused branch, the norm, GELU and the
addition are part of the linear layers. The operators have no gradients.

Legend: B batch, D H W token grid, M = B * D * H * W tokens, C channels, O output channels.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.flop_counter import register_flop_formula

from videoswin.acceleration.triton.tiles import takes_channels
from videoswin.model.attention import WindowAttention
from videoswin.model.cpu import is_plain
from videoswin.model.swin import MLP, Block, Stage

Branch = Literal["attention", "mlp"]
BRANCHES: tuple[Branch, ...] = ("attention", "mlp")
WIDEST = 256
"""Maximum number of channels for fusion. Linear layers with more are limited by the tensor cores instead of
by memory, and torch's own products are optimized for that."""


class FusedBlock(Block):
    """A block with the layers of another one and fused branches.

    It falls back to plain branches with gradients, drop path or autocast, if the grid needs padding, and if a
    layer was replaced or has hooks.
    """

    def __init__(self, block: Block, branches: Sequence[Branch] = BRANCHES) -> None:
        """Create a fused block that shares the layers of `block`; fuse blocks before compiling them."""
        nn.Module.__init__(self)  # Block.__init__ would create new layers
        self.branches = tuple(branches)
        self.training, self.drop_path = block.training, block.drop_path
        self.norm1, self.attn = block.norm1, block.attn
        self.norm2, self.mlp = block.norm2, block.mlp

    def add_attention(self, x: Tensor) -> Tensor:
        """Add the attention branch to the tokens: (B, D, H, W, C) -> (B, D, H, W, C)."""
        norm, attn = self.norm1, self.attn
        known = is_plain(attn, WindowAttention) and _are_plain(norm, attn.qkv, attn.proj)
        if not (known and self._may_fuse("attention", x)):
            return super().add_attention(x)
        geometry = attn.geometry_of(x)
        if geometry.grid != tuple(x.shape[1:4]):  # padding is between the norm and the linear layer
            return super().add_attention(x)
        tokens = x.flatten(0, 3)  # (M, C)
        qkv = norm_linear(tokens, norm.weight, norm.bias, norm.eps, attn.qkv.weight, attn.qkv.bias)
        qkv = qkv.view(*x.shape[:4], 3, attn.heads, -1)
        out = attn.attention(qkv, attn.relative_position_bias_table, geometry)
        added: Tensor = linear_add(out.flatten(0, 3), attn.proj.weight, attn.proj.bias, tokens)
        return added.view(x.shape)

    def add_mlp(self, x: Tensor) -> Tensor:
        """Add the MLP branch to the tokens: (B, D, H, W, C) -> (B, D, H, W, C)."""
        norm, mlp = self.norm2, self.mlp
        known = is_plain(mlp, MLP) and _are_plain(norm, mlp.fc1, mlp.fc2)
        if not (known and self._may_fuse("mlp", x)):
            return super().add_mlp(x)
        weights = (mlp.fc1.weight, mlp.fc1.bias, mlp.fc2.weight, mlp.fc2.bias)
        added: Tensor = norm_mlp_add(x.flatten(0, 3), norm.weight, norm.bias, norm.eps, *weights)
        return added.view(x.shape)

    def _may_fuse(self, branch: Branch, x: Tensor) -> bool:
        drops_paths = self.training and self.drop_path > 0.0
        is_inference = not torch.is_grad_enabled() and not torch.is_autocast_enabled(x.device.type)
        return branch in self.branches and is_inference and not drops_paths


def _are_plain(norm: nn.Module, *layers: nn.Module) -> bool:
    """Return whether these are a plain LayerNorm and plain linear layers, all with weight and bias."""
    plain = is_plain(norm, nn.LayerNorm) and all(is_plain(layer, nn.Linear) for layer in layers)
    return plain and all(each.weight is not None and each.bias is not None for each in (norm, *layers))


def can_fuse(block: Block) -> bool:
    """Return whether the kernels support the channels of a block."""
    (channels,) = block.norm1.normalized_shape
    return channels <= WIDEST and takes_channels(channels)


def fuse(stage: Stage, branches: Sequence[Branch] = BRANCHES) -> None:
    """Replace the blocks of a stage by fused ones with the same layers; subclasses of Block are kept."""
    for number, block in enumerate(stage.blocks):
        if is_plain(block, Block, FusedBlock):
            assert isinstance(block, Block)
            stage.blocks[number] = FusedBlock(block, branches)


def run_branch(block: Block, branch: Branch, x: Tensor) -> Tensor:
    """Add one branch of a block to the tokens: (B, D, H, W, C) -> (B, D, H, W, C)."""
    return block.add_attention(x) if branch == "attention" else block.add_mlp(x)


@torch.library.custom_op("videoswin::norm_linear", mutates_args=(), device_types="cpu")
def norm_linear(
    x: Tensor, norm_weight: Tensor, norm_bias: Tensor, eps: float, weight: Tensor, bias: Tensor
) -> Tensor:
    """Apply a linear layer to norm(x): x (M, C), weight (O, C) -> (M, O)."""
    return F.linear(F.layer_norm(x, norm_weight.shape, norm_weight, norm_bias, eps), weight, bias)


@torch.library.custom_op("videoswin::linear_add", mutates_args=(), device_types="cpu")
def linear_add(x: Tensor, weight: Tensor, bias: Tensor, residual: Tensor) -> Tensor:
    """Add a linear layer of x to the residual: x (M, C), weight (O, C), residual (M, O) -> (M, O)."""
    return residual + F.linear(x, weight, bias)


@torch.library.custom_op("videoswin::norm_mlp_add", mutates_args=(), device_types="cpu")
def norm_mlp_add(
    x: Tensor,
    norm_weight: Tensor,
    norm_bias: Tensor,
    eps: float,
    weight1: Tensor,
    bias1: Tensor,
    weight2: Tensor,
    bias2: Tensor,
) -> Tensor:
    """Add the MLP of norm(x) to x: x (M, C), weight1 (hidden, C), weight2 (C, hidden) -> (M, C)."""
    hidden = F.gelu(F.linear(F.layer_norm(x, norm_weight.shape, norm_weight, norm_bias, eps), weight1, bias1))
    return x + F.linear(hidden, weight2, bias2)


@norm_linear.register_kernel("cuda")
def _norm_linear_on_cuda(*arguments: Any) -> Tensor:
    from videoswin.acceleration.triton import linear

    return linear.norm_linear(*_contiguous(arguments))


@linear_add.register_kernel("cuda")
def _linear_add_on_cuda(*arguments: Any) -> Tensor:
    from videoswin.acceleration.triton import linear

    return linear.linear_add(*_contiguous(arguments))


@norm_mlp_add.register_kernel("cuda")
def _norm_mlp_add_on_cuda(*arguments: Any) -> Tensor:
    from videoswin.acceleration.triton import linear

    return linear.norm_mlp_add(*_contiguous(arguments))


def _contiguous(arguments: Sequence[Any]) -> list[Any]:
    """Make tensors contiguous, as the kernels expect; they usually are already."""
    return [each.contiguous() if isinstance(each, Tensor) else each for each in arguments]


@norm_linear.register_fake
def _norm_linear_shape(
    x: Tensor, norm_weight: Tensor, norm_bias: Tensor, eps: float, weight: Tensor, bias: Tensor
) -> Tensor:
    return x.new_empty(x.shape[0], weight.shape[0])


@linear_add.register_fake
def _linear_add_shape(x: Tensor, weight: Tensor, *rest: Any) -> Tensor:
    return x.new_empty(x.shape[0], weight.shape[0])


@norm_mlp_add.register_fake
def _norm_mlp_add_shape(x: Tensor, *rest: Any) -> Tensor:
    return x.new_empty(x.shape)


@register_flop_formula(torch.ops.videoswin.norm_linear)
def _norm_linear_flops(
    x: Sequence[int],
    norm_weight: Any,
    norm_bias: Any,
    eps: float,
    weight: Sequence[int],
    *rest: Any,
    **out: Any,
) -> int:
    return _product_flops(x, weight)


@register_flop_formula(torch.ops.videoswin.linear_add)
def _linear_add_flops(x: Sequence[int], weight: Sequence[int], *rest: Any, **out: Any) -> int:
    return _product_flops(x, weight)


@register_flop_formula(torch.ops.videoswin.norm_mlp_add)
def _norm_mlp_add_flops(
    x: Sequence[int],
    norm_weight: Any,
    norm_bias: Any,
    eps: float,
    weight1: Sequence[int],
    *rest: Any,
    **out: Any,
) -> int:
    return 2 * _product_flops(x, weight1)


def _product_flops(x: Sequence[int], weight: Sequence[int]) -> int:
    return 2 * x[0] * weight[0] * weight[1]
