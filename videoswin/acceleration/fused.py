"""`FusedBlock`, a block that predicts with few passes over its tokens, and the operators it is made of.

A block has two branches, attention and the MLP, and adds to its tokens what each makes of them. Fused, a
branch's norm, GELU and addition are part of its linear layers. There are no gradients of these operators.
Legend: B batch, D H W grid of tokens, M tokens in all, C channels, K channels out.
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
"""Channels up to which linear layers wait for memory. Beyond, they wait for the tensor cores, and torch's own
products are made for those."""


class FusedBlock(Block):
    """A block with fused branches and the layers of a given one.

    It computes as the given one does while gradients are recorded or branches dropped, under autocast, where
    windows do not fit the grid, and where a layer was replaced or has hooks.
    """

    def __init__(self, block: Block, branches: Sequence[Branch] = BRANCHES) -> None:
        """branches: those that are fused. To compile blocks, fuse them first."""
        nn.Module.__init__(self)  # Block's would make new layers
        self.branches = tuple(branches)
        self.training, self.drop_path = block.training, block.drop_path
        self.norm1, self.attn = block.norm1, block.attn
        self.norm2, self.mlp = block.norm2, block.mlp

    def add_attention(self, x: Tensor) -> Tensor:
        """(B, D, H, W, C) -> (B, D, H, W, C)."""
        norm, attn = self.norm1, self.attn
        known = is_plain(attn, WindowAttention) and _are_whole(norm, attn.qkv, attn.proj)
        if not (known and self._may_fuse("attention", x)):
            return super().add_attention(x)
        geometry = attn.geometry_of(x)
        if geometry.grid != tuple(x.shape[1:4]):  # padding comes between the norm and the linear layer
            return super().add_attention(x)
        tokens = x.flatten(0, 3)  # (M, C)
        qkv = norm_linear(tokens, norm.weight, norm.bias, norm.eps, attn.qkv.weight, attn.qkv.bias)
        qkv = qkv.view(*x.shape[:4], 3, attn.heads, -1)
        out = attn.attention(qkv, attn.relative_position_bias_table, geometry)
        added: Tensor = linear_add(out.flatten(0, 3), attn.proj.weight, attn.proj.bias, tokens)
        return added.view(x.shape)

    def add_mlp(self, x: Tensor) -> Tensor:
        """(B, D, H, W, C) -> (B, D, H, W, C)."""
        norm, mlp = self.norm2, self.mlp
        known = is_plain(mlp, MLP) and _are_whole(norm, mlp.fc1, mlp.fc2)
        if not (known and self._may_fuse("mlp", x)):
            return super().add_mlp(x)
        weights = (mlp.fc1.weight, mlp.fc1.bias, mlp.fc2.weight, mlp.fc2.bias)
        added: Tensor = norm_mlp_add(x.flatten(0, 3), norm.weight, norm.bias, norm.eps, *weights)
        return added.view(x.shape)

    def _may_fuse(self, branch: Branch, x: Tensor) -> bool:
        drops = self.training and self.drop_path > 0.0
        only_predicts = not torch.is_grad_enabled() and not torch.is_autocast_enabled(x.device.type)
        return branch in self.branches and only_predicts and not drops


def _are_whole(norm: nn.Module, *layers: nn.Module) -> bool:
    """Whether these are a layer norm and linear layers with all their weights, and nothing else."""
    plain = is_plain(norm, nn.LayerNorm) and all(is_plain(layer, nn.Linear) for layer in layers)
    return plain and all(each.weight is not None and each.bias is not None for each in (norm, *layers))


def can_fuse(block: Block) -> bool:
    """Whether the kernels take a block's channels."""
    (channels,) = block.norm1.normalized_shape
    return channels <= WIDEST and takes_channels(channels)


def fuse(stage: Stage, branches: Sequence[Branch] = BRANCHES) -> None:
    """Put fused blocks, with the same layers, in the places of the stage's; blocks of other kinds stay."""
    for number, block in enumerate(stage.blocks):
        if is_plain(block, Block, FusedBlock):
            assert isinstance(block, Block)
            stage.blocks[number] = FusedBlock(block, branches)


def run_branch(block: Block, branch: Branch, x: Tensor) -> Tensor:
    """Tokens and what one branch makes of them, added: (B, D, H, W, C) -> (B, D, H, W, C)."""
    return block.add_attention(x) if branch == "attention" else block.add_mlp(x)


@torch.library.custom_op("videoswin::norm_linear", mutates_args=(), device_types="cpu")
def norm_linear(
    x: Tensor, norm_weight: Tensor, norm_bias: Tensor, eps: float, weight: Tensor, bias: Tensor
) -> Tensor:
    """x (M, C), weight (K, C) -> (M, K): the linear layer of norm(x)."""
    return F.linear(F.layer_norm(x, norm_weight.shape, norm_weight, norm_bias, eps), weight, bias)


@torch.library.custom_op("videoswin::linear_add", mutates_args=(), device_types="cpu")
def linear_add(x: Tensor, weight: Tensor, bias: Tensor, residual: Tensor) -> Tensor:
    """x (M, C), weight (K, C), residual (M, K) -> (M, K): the residual and the linear layer of x."""
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
    """x (M, C), weight1 (K, C), weight2 (C, K) -> (M, C): x and the MLP of norm(x)."""
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
    """What the kernels step through by its sizes; it is contiguous as a rule."""
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
