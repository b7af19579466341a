"""`FusedBlock`, a block that predicts with few passes over its tokens, and the two operators it is made of.

There are no gradients of these operators: a model that learns computes as it always does.
Legend: B batch, D H W grid of tokens, M tokens in all, C channels, K channels out.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.flop_counter import register_flop_formula

from videoswin.model.swin import Block

Half = Literal["attention", "mlp"]
"""A block is two additions to its tokens: of attention, and of the MLP."""
HALVES: tuple[Half, Half] = ("attention", "mlp")


class FusedBlock(Block):
    """A block whose norms, GELU and additions are part of its linear layers, with the weights of a given one.

    While gradients are recorded, under autocast, and where windows do not fit the grid, it computes as the
    given one does.
    """

    def __init__(self, block: Block, halves: Sequence[Half] = HALVES) -> None:
        """halves: those of the block that are fused."""
        nn.Module.__init__(self)
        self.halves = tuple(halves)
        self.drop_path = block.drop_path
        self.norm1, self.attn = block.norm1, block.attn
        self.norm2, self.mlp = block.norm2, block.mlp
        self.train(block.training)

    def add_attention(self, x: Tensor) -> Tensor:
        """(B, D, H, W, C) -> (B, D, H, W, C)."""
        attn = self.attn
        geometry = attn.geometry_of(x)
        # Tokens of padding come between the norm and the linear layer.
        if "attention" not in self.halves or not _only_predicts(x) or geometry.grid != tuple(x.shape[1:4]):
            return super().add_attention(x)
        tokens = x.flatten(0, 3)  # (M, C)
        norm = (self.norm1.weight, self.norm1.bias, self.norm1.eps)
        qkv = linear(tokens, attn.qkv.weight, attn.qkv.bias, *norm, None)
        out = attn.attention(
            qkv.view(*x.shape[:4], 3, attn.heads, -1), attn.relative_position_bias_table, geometry
        )
        added: Tensor = linear(out.flatten(0, 3), attn.proj.weight, attn.proj.bias, None, None, 0.0, tokens)
        return added.view(x.shape)

    def add_mlp(self, x: Tensor) -> Tensor:
        """(B, D, H, W, C) -> (B, D, H, W, C)."""
        if "mlp" not in self.halves or not _only_predicts(x):
            return super().add_mlp(x)
        norm, fc1, fc2 = self.norm2, self.mlp.fc1, self.mlp.fc2
        weights = (fc1.weight, fc1.bias, fc2.weight, fc2.bias)
        added: Tensor = mlp(x.flatten(0, 3), norm.weight, norm.bias, norm.eps, *weights)
        return added.view(x.shape)


def run_half(block: Block, half: Half, x: Tensor) -> Tensor:
    """One half of a block, fused or not: (B, D, H, W, C) -> (B, D, H, W, C)."""
    return block.add_attention(x) if half == "attention" else block.add_mlp(x)


def _only_predicts(x: Tensor) -> bool:
    return not torch.is_grad_enabled() and not torch.is_autocast_enabled(x.device.type)


@torch.library.custom_op("videoswin::linear", mutates_args=(), device_types="cpu")
def linear(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    norm_weight: Tensor | None,
    norm_bias: Tensor | None,
    eps: float,
    residual: Tensor | None,
) -> Tensor:
    """x (M, C), weight (K, C) -> (M, K): weight norm(x) + bias + residual; without what is None."""
    if norm_weight is not None:
        x = F.layer_norm(x, norm_weight.shape, norm_weight, norm_bias, eps)
    out = F.linear(x, weight, bias)
    return out if residual is None else out + residual


@torch.library.custom_op("videoswin::mlp", mutates_args=(), device_types="cpu")
def mlp(
    x: Tensor,
    norm_weight: Tensor,
    norm_bias: Tensor,
    eps: float,
    weight1: Tensor,
    bias1: Tensor,
    weight2: Tensor,
    bias2: Tensor,
) -> Tensor:
    """x (M, C) -> (M, C): x and the MLP of norm(x) added."""
    hidden = F.gelu(F.linear(F.layer_norm(x, norm_weight.shape, norm_weight, norm_bias, eps), weight1, bias1))
    return x + F.linear(hidden, weight2, bias2)


@linear.register_kernel("cuda")
def _linear_on_cuda(x: Tensor, weight: Tensor, bias: Tensor, *rest: Any) -> Tensor:
    from videoswin.kernels import linear as kernels

    norm_weight, norm_bias, eps, residual = rest
    residual = None if residual is None else residual.contiguous()
    return kernels.linear(x.contiguous(), weight, bias, norm_weight, norm_bias, eps, residual)


@mlp.register_kernel("cuda")
def _mlp_on_cuda(x: Tensor, *weights: Any) -> Tensor:
    from videoswin.kernels import linear as kernels

    return kernels.mlp(x.contiguous(), *weights)


@linear.register_fake
def _linear_shape(x: Tensor, weight: Tensor, *rest: Any) -> Tensor:
    return x.new_empty(x.shape[0], weight.shape[0])


@mlp.register_fake
def _mlp_shape(x: Tensor, *weights: Any) -> Tensor:
    return torch.empty_like(x)


@register_flop_formula(torch.ops.videoswin.linear)
def _linear_flops(x: Sequence[int], weight: Sequence[int], *rest: Any, **outputs: Any) -> int:
    return 2 * x[0] * weight[0] * weight[1]


@register_flop_formula(torch.ops.videoswin.mlp)
def _mlp_flops(x: Sequence[int], *rest: Any, **outputs: Any) -> int:
    hidden: int = rest[3][0]
    return 2 * 2 * x[0] * x[1] * hidden
