"""First weights, AdamW and its learning rate."""

from __future__ import annotations

import math

import torch
from torch import nn
from torch.optim import AdamW
from torch.optim.lr_scheduler import LambdaLR

from videoswin.model.swin import VideoSwin
from videoswin.training.recipe import Optimizer, Schedule


def initialize_from_scratch(model: VideoSwin) -> None:
    """Set first weights from which a small model learns without pretraining.

    Xavier-uniform matrices and a Kaiming patch embedding. The published initialisation (normal, std 0.02) is
    meant to be followed by image weights; a model as small as NANO stayed at chance with it alone.
    """
    for module in model.modules():
        if isinstance(module, nn.Linear):
            nn.init.xavier_uniform_(module.weight)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    patches = model.patch_embed.proj
    nn.init.kaiming_normal_(patches.weight, nonlinearity="linear")
    assert patches.bias is not None
    nn.init.zeros_(patches.bias)


def adamw(model: nn.Module, plan: Optimizer) -> AdamW:
    """AdamW in two groups: matrices, which decay, and everything else, which does not."""
    named = list(model.named_parameters())
    decays = [p for name, p in named if p.ndim > 1 and not name.endswith("bias_table")]
    stays = [p for name, p in named if p.ndim <= 1 or name.endswith("bias_table")]
    groups = [{"params": decays, "weight_decay": plan.weight_decay}, {"params": stays, "weight_decay": 0.0}]
    return AdamW(groups, lr=plan.peak_rate, fused=True)


def one_cycle(optimizer: torch.optim.Optimizer, plan: Schedule) -> LambdaLR:
    """A learning rate that rises for `warmup_steps` and then falls along a cosine to 0 at `steps`."""

    def part_of_peak(step: int) -> float:
        if step < plan.warmup_steps:
            return (step + 1) / plan.warmup_steps
        progress = (step - plan.warmup_steps) / max(1, plan.steps - plan.warmup_steps)
        return 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))

    return LambdaLR(optimizer, part_of_peak)
