"""What decays, how the learning rate runs, and what the first weights are."""

import pytest
import torch
from torch import nn

from videoswin.model.config import NANO
from videoswin.model.swin import VideoSwin
from videoswin.training.optimizer import adamw, initialize_from_scratch, one_cycle
from videoswin.training.recipe import Optimizer, Schedule

PLAN = Optimizer(peak_rate=1e-3, weight_decay=0.05, largest_gradient=1.0, averaging=0.999)


def test_matrices_decay_and_nothing_else():
    model = VideoSwin(NANO)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    decaying, staying = adamw(model, PLAN).param_groups
    assert (decaying["weight_decay"], staying["weight_decay"]) == (0.05, 0.0)
    assert len(decaying["params"]) + len(staying["params"]) == len(names)
    assert all(names[id(p)].endswith("weight") and p.ndim > 1 for p in decaying["params"])
    assert all(names[id(p)].endswith(("bias", "bias_table")) or p.ndim == 1 for p in staying["params"])


def test_the_rate_rises_and_falls_to_nothing():
    optimizer = torch.optim.AdamW([nn.Parameter(torch.zeros(1))], lr=1.0)
    schedule = one_cycle(optimizer, Schedule(steps=100, warmup_steps=10))
    rates = []
    for _ in range(100):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    assert rates[0] == pytest.approx(0.1)
    assert max(rates) == rates[10] == pytest.approx(1.0)
    assert rates == sorted(rates[:10]) + sorted(rates[10:], reverse=True)
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.0)


def test_first_weights_keep_the_size_of_what_passes_through():
    torch.manual_seed(0)
    model = VideoSwin(NANO)
    initialize_from_scratch(model)
    fc1 = model.stages[0].blocks[0].mlp.fc1
    assert fc1.weight.std().item() == pytest.approx((2 / (32 + 128)) ** 0.5, rel=0.05)
    patches = model.patch_embed.proj.weight.flatten(1) @ torch.randn(96, 1000)
    assert patches.std().item() == pytest.approx(1.0, rel=0.15)
