"""Time of attention alone in each stage, compared with other implementations; part of benchmarks/gpu.py."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from benchmarks.gpu_systems import ATTENTIONS, stage_grid
from benchmarks.gpu_timing import Deadline, Row, time_in_turn
from videoswin.acceleration.cuda import TOLERANCE, attention_error
from videoswin.model.attention import AttentionFn
from videoswin.model.config import VideoSwinConfig
from videoswin.model.windows import Grid, WindowGeometry, bias_table_rows, window_geometry

MAX_ERROR = dict.fromkeys(ATTENTIONS, 5e-2) | {"triton": TOLERANCE[torch.bfloat16]}
"""Tolerance of each, relative to the largest value; all but "triton" round their logits to bfloat16."""


def compare_attentions(
    configs: dict[str, VideoSwinConfig], size: Grid, device: torch.device, deadline: Deadline, seconds: float
) -> Iterator[Row]:
    """Yield a row for each stage, plain and shifted, forward or with backward, and each implementation."""
    batch = 8 if device.type == "cuda" else 1
    for variant in [name for name in ("T", "B") if name in configs]:
        config = configs[variant]
        for stage, heads in enumerate(config.num_heads):
            for shift in ((0, 0, 0), tuple(size // 2 for size in config.window)):
                if deadline.passed():
                    yield {"variant": variant, "stage": stage + 1, "failed": "no time left"}
                    continue
                geometry = window_geometry(stage_grid(size, stage), config.window, shift, True, device)
                shape = (batch, *geometry.grid, 3, heads, config.stage_dim(stage) // heads)
                inputs = [torch.randn(shape, device=device).bfloat16() for _ in range(3)]
                table = torch.randn(bias_table_rows(config.window), heads, device=device)
                common = {"variant": variant, "stage": stage + 1, "shift": geometry.shift, "clips": batch}
                errors = {
                    name: _error(attend, inputs[0], table, geometry) for name, attend in ATTENTIONS.items()
                }
                right = [name for name, error in errors.items() if error <= MAX_ERROR[name]]
                for name in [name for name in errors if name not in right]:
                    yield {**common, "system": name, "failed": f"wrong by {errors[name]:.2g}"}
                for both_ways in (False, True):
                    passes = {
                        name: _pass(attend, inputs, table, geometry, both_ways)
                        for name, attend in ATTENTIONS.items()
                        if name in right
                    }
                    timed = time_in_turn(passes, device, seconds)
                    kind = "forward and backward" if both_ways else "forward"
                    for name, times in timed.items():
                        yield {**common, "pass": kind, "system": name, "error": errors[name], **times}


def _error(attend: AttentionFn, qkv: Tensor, table: Tensor, geometry: WindowGeometry) -> float:
    """Return the error on the first and the last clip, relative to the largest value."""
    few = qkv[[0, -1]]
    upstream = few[..., 0, :, :].flatten(4)  # any values would do
    return attention_error(attend, few, table, geometry, upstream)


def _pass(
    attend: AttentionFn, inputs: list[Tensor], table: Tensor, geometry: WindowGeometry, both_ways: bool
) -> Callable[[int], object]:
    if not both_ways:

        def forward(number: int) -> Tensor:
            with torch.inference_mode():
                return attend(inputs[number % 3], table, geometry)

        return forward
    learned = [(qkv.detach().requires_grad_(), table.detach().requires_grad_()) for qkv in inputs]
    upstream = torch.randn_like(inputs[0][..., 0, :, :]).flatten(4)

    def backward(number: int) -> tuple[Tensor, ...]:
        leaves = learned[number % 3]
        return torch.autograd.grad(attend(*leaves, geometry), leaves, upstream)

    return backward
