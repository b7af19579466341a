"""Fine-tuning fewer weights: the head alone, or the head and low-rank changes of the attention's matrices.

Hu et al. 2021 (LoRA): a frozen matrix W learns a change of rank r, W + (alpha / r) up @ down. torch's own
parametrisations would do the same, but copies of a model share them: merging the copy breaks the original.
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
"""Strength of the changes: divided by the rank, it lets one learning rate fit every rank."""


class LowRankLinear(nn.Linear):
    """A linear layer whose weight is as it was, plus a change of low rank that is zero at first."""

    def __init__(self, layer: nn.Linear, rank: int) -> None:
        """Takes over the tensors of `layer`; `down` is drawn from torch's random state."""
        super().__init__(layer.in_features, layer.out_features, device="meta")
        self.weight, self.bias = layer.weight, layer.bias
        self.scale = ALPHA / rank
        self.down = nn.Parameter(layer.weight.new_empty(rank, layer.in_features))
        self.up = nn.Parameter(layer.weight.new_zeros(layer.out_features, rank))
        nn.init.kaiming_uniform_(self.down, a=math.sqrt(5))  # as nn.Linear draws its weight

    def merged_weight(self) -> Tensor:
        """The weight with its change, (out, in)."""
        return self.weight + self.scale * (self.up @ self.down)

    def forward(self, x: Tensor) -> Tensor:
        """(..., in) -> (..., out)."""
        # Changing the weight and not the output costs nothing per token, and merging is exact.
        return F.linear(x, self.merged_weight(), self.bias)

    def merged(self) -> nn.Linear:
        """An ordinary layer that gives the same."""
        layer = nn.Linear(self.in_features, self.out_features, device="meta")
        layer.weight = nn.Parameter(self.merged_weight().detach(), requires_grad=self.weight.requires_grad)
        layer.bias = self.bias
        return layer.train(self.training)


def set_trainable(model: VideoSwin, trainable: Literal["all", "head", "lora"], rank: int) -> None:
    """Set what of `model` learns, in place; to be called once, before its optimizer and average are made.

    all: every weight. head: the head alone, and drop path is switched off, so that the head learns from the
    features that it will see. lora: changes of rank `rank` in attn.qkv and attn.proj, and in full the bias
    tables, norms and head; the rest is frozen. ValueError if the rank is below 1 or the model has changes.
    """
    if rank < 1:
        raise InputError(f"rank is {rank}, wanted at least 1")
    if _changed_layers(model):
        raise InputError("the model has low-rank changes already; merge_lora(model) folds them in")
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
    """Fold the low-rank changes into their matrices, in place: ordinary names, the same logits.

    A model without such changes stays as it is.
    """
    for path, layer in _changed_layers(model).items():
        model.set_submodule(path, layer.merged())


@torch.no_grad()
def plain_state_dict(model: VideoSwin) -> dict[str, Tensor]:
    """The state dict that `model` would have after `merge_lora`, without changing the model.

    As with `state_dict()`, tensors that need no merging share the model's memory. Where weights are sharded
    over processes, all of them must call this.
    """
    weights: dict[str, Tensor] = model.state_dict()
    for path, layer in _changed_layers(model).items():
        del weights[f"{path}.down"], weights[f"{path}.up"]
        weights[f"{path}.weight"] = layer.merged_weight()
    return weights


def _changed_layers(model: VideoSwin) -> dict[str, LowRankLinear]:
    """Layers that have a low-rank change, by their path."""
    return {path: module for path, module in model.named_modules() if isinstance(module, LowRankLinear)}
