"""FusedBlock, a block for inference with few passes over its tokens, and its operators.

In a fused branch, the norm, GELU and the addition are part of the linear layers. The operators have no
gradients.

Legend: B batch, D H W token grid, M = B * D * H * W tokens, C channels, O output channels.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from videoswin.acceleration.block import BRANCHES, Branch, InferenceBlock
from videoswin.model.swin import Block

WIDEST = 256
"""Maximum number of channels for fusion. Linear layers with more are limited by the tensor cores instead of
by memory, and torch's own products are optimized for that."""


class FusedBlock(InferenceBlock):
    """A block with fused branches; attention is not fused if the grid needs padding."""

    def __init__(self, block: Block, branches: Sequence[Branch] = BRANCHES) -> None:
        """Create a fused block that shares the layers of `block`; fuse blocks before compiling them."""
        super().__init__(block)
        self.branches = tuple(branches)

    def supports(self, branch: Branch, x: Tensor) -> bool:
        """Return whether this branch is fused for tokens (B, D, H, W, C)."""
        if branch not in self.branches:
            return False
        # Padding is between the norm and the linear layer.
        return branch == "mlp" or self.attn.geometry_of(x).grid == tuple(x.shape[1:4])

    def fast_attention(self, x: Tensor) -> Tensor:
        """Add the attention branch to the tokens: (B, D, H, W, C) -> (B, D, H, W, C)."""
        norm, attn = self.norm1, self.attn
        tokens = x.flatten(0, 3)  # (M, C)
        qkv = norm_linear(tokens, norm.weight, norm.bias, norm.eps, attn.qkv.weight, attn.qkv.bias)
        qkv = qkv.view(*x.shape[:4], 3, attn.heads, -1)  # (B, D, H, W, 3, heads, head_dim)
        out = attn.attention(qkv, attn.relative_position_bias_table, attn.geometry_of(x))
        added: Tensor = linear_add(out.flatten(0, 3), attn.proj.weight, attn.proj.bias, tokens)
        return added.view(x.shape)

    def fast_mlp(self, x: Tensor) -> Tensor:
        """Add the MLP branch to the tokens: (B, D, H, W, C) -> (B, D, H, W, C)."""
        norm, mlp = self.norm2, self.mlp
        weights = (mlp.fc1.weight, mlp.fc1.bias, mlp.fc2.weight, mlp.fc2.bias)
        added: Tensor = norm_mlp_add(x.flatten(0, 3), norm.weight, norm.bias, norm.eps, *weights)
        return added.view(x.shape)


def can_fuse(block: Block) -> bool:
    """Return whether the kernels support the channels of a block: one power of two >= 16 or a sum of two."""
    (channels,) = block.norm1.normalized_shape
    return channels <= WIDEST and channels % 16 == 0 and channels.bit_count() <= 2


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
