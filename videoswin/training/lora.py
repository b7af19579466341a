"""Fine-tune part of a model: the head alone, or the head and low-rank updates of the attention weights.

LoRA (Hu et al. 2021) adds a trainable update of rank r to a frozen weight W: W + (alpha / r) up @ down.
`torch.nn.utils.parametrize` could do the same, but copies of a parametrized model share state, so that
merging the copy breaks the original.
"""

from __future__ import annotations

import math
from typing import Final, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from videoswin._errors import InputError
from videoswin.model.attention import WindowAttention
from videoswin.model.swin import Block, VideoSwin

ALPHA: Final = 16.0
"""Scale of the low-rank updates; it is divided by the rank, so that one learning rate suits every rank."""


class LowRankLinear(nn.Linear):
    """A linear layer with a low-rank update of its weight, which is zero after initialization."""

    def __init__(self, layer: nn.Linear, rank: int) -> None:
        """Wrap a linear layer, sharing its weight and bias.

        Args:
            layer: The layer to update.
            rank: Rank of the update, >= 1. The factor `down` is initialized from torch's random state.
        """
        super().__init__(layer.in_features, layer.out_features, device="meta")
        self.weight, self.bias = layer.weight, layer.bias
        self.scale = ALPHA / rank
        self.down = nn.Parameter(layer.weight.new_empty(rank, layer.in_features))
        self.up = nn.Parameter(layer.weight.new_zeros(layer.out_features, rank))
        nn.init.kaiming_uniform_(self.down, a=math.sqrt(5))  # the initialization of nn.Linear.weight

    def merged_weight(self) -> Tensor:
        """Return the weight with its low-rank update, (out, in)."""
        return self.weight + self.scale * (self.up @ self.down)

    def forward(self, x: Tensor) -> Tensor:
        """Apply the layer with the merged weight: (..., in) -> (..., out)."""
        # Updating the weight, not the output, has no cost per token and makes merging exact.
        return F.linear(x, self.merged_weight(), self.bias)

    def to_linear(self) -> nn.Linear:
        """Return a plain linear layer with the merged weight."""
        layer = nn.Linear(self.in_features, self.out_features, device="meta")
        layer.weight = nn.Parameter(self.merged_weight().detach(), requires_grad=self.weight.requires_grad)
        layer.bias = self.bias
        return layer.train(self.training)


def set_trainable(model: VideoSwin, trainable: Literal["all", "head", "lora"], rank: int) -> None:
    """Set which parameters of a model are trainable, in place.

    Call it once, before the optimizer and the moving average are created.

    Args:
        model: The model to change.
        trainable: `all`: every parameter. `head`: the head alone; drop path is switched off, so that the
            head is trained on the same features as in prediction. `lora`: low-rank updates of attn.qkv and
            attn.proj, bias tables, norms and head; all other parameters are frozen.
        rank: Rank of the low-rank updates, >= 1.

    Raises:
        InputError: `rank` is < 1, or the model already has low-rank updates.
    """
    if rank < 1:
        raise InputError(f"lora_rank must be >= 1, got {rank}")
    if _low_rank_layers(model):
        raise InputError("the model already has low-rank updates; call merge_lora(model) first")
    model.requires_grad_(trainable == "all")
    model.head.requires_grad_(True)
    for module in list(model.modules()):
        if trainable == "head" and isinstance(module, Block):
            module.drop_path = 0.0
        elif trainable == "lora" and isinstance(module, nn.LayerNorm):
            module.requires_grad_(True)
        elif trainable == "lora" and isinstance(module, WindowAttention):
            module.relative_position_bias_table.requires_grad_(True)
            module.qkv = LowRankLinear(module.qkv, rank)
            module.proj = LowRankLinear(module.proj, rank)


def merge_lora(model: VideoSwin) -> None:
    """Merge low-rank updates into their weights, in place: plain layers, plain names, the same logits.

    A model without low-rank updates is not changed.
    """
    for name, layer in _low_rank_layers(model).items():
        model.set_submodule(name, layer.to_linear())


@torch.no_grad()
def merged_state_dict(model: VideoSwin) -> dict[str, Tensor]:
    """Return the state dict that the model would have after `merge_lora`, without changing the model.

    As with `state_dict()`, tensors that are not merged share memory with the model. If the model is sharded,
    every process must call this.
    """
    weights: dict[str, Tensor] = model.state_dict()
    for name, layer in _low_rank_layers(model).items():
        del weights[f"{name}.down"], weights[f"{name}.up"]
        weights[f"{name}.weight"] = layer.merged_weight()
    return weights


def _low_rank_layers(model: VideoSwin) -> dict[str, LowRankLinear]:
    """Return the layers with a low-rank update by their module name."""
    return {name: module for name, module in model.named_modules() if isinstance(module, LowRankLinear)}
