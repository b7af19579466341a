"""Times of halves of blocks, plain and fused, by stage; part of benchmarks/gpu.py."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import torch

from benchmarks.gpu_systems import initial_model, with_attention
from benchmarks.gpu_timing import Deadline, Pass, Row, time_in_turn
from videoswin.kernels.choose import WIDEST, half_error
from videoswin.kernels.fused import HALVES, FusedBlock, Half, run_half
from videoswin.kernels.window_attention import triton_attention
from videoswin.model.config import VideoSwinConfig
from videoswin.model.swin import Block, token_grid

MAX_ERROR = 2e-2
"""Largest believable one of a half in bfloat16, relative to its largest number."""


def halves(
    configs: dict[str, VideoSwinConfig],
    device: torch.device,
    size: tuple[int, int, int],
    deadline: Deadline,
    seconds: float,
) -> Iterator[Row]:
    """A row for each half of a first block, plain and fused, where the kernels take its channels."""
    clips = 8 if device.type == "cuda" else 1
    for variant in [name for name in ("T", "B") if name in configs]:
        with device:
            model = with_attention(triton_attention)(initial_model(configs[variant], device))
        model = model.to(device, torch.bfloat16).eval()
        grid = token_grid(size)
        for number, stage in enumerate(model.stages):
            block = stage.blocks[0]
            (channels,) = block.norm1.normalized_shape
            tokens = (clips, grid[0], -(-grid[1] // 2**number), -(-grid[2] // 2**number), channels)
            for half in HALVES if channels <= WIDEST else ():
                common = {"variant": variant, "stage": number + 1, "half": half, "clips": clips}
                if deadline.passed():
                    yield {**common, "failed": "no time left"}
                    continue
                inputs = [torch.randn(tokens, device=device).bfloat16() for _ in range(3)]
                yield from _compare(block, half, inputs, common, device, seconds)


def _compare(
    block: Block, half: Half, inputs: list[torch.Tensor], common: Row, device: torch.device, seconds: float
) -> Iterator[Row]:
    ways = {"plain": block, "fused": FusedBlock(block, [half])}
    passes: dict[str, Pass] = {}
    errors: dict[str, float] = {}
    for way, blocks in ways.items():
        with torch.inference_mode():
            errors[way] = half_error(block, half, partial(run_half, blocks, half), inputs[0][:1])
        if errors[way] <= MAX_ERROR:
            passes[way] = partial(_one_pass, blocks, half, inputs)
        else:
            yield {**common, "way": way, "failed": f"wrong by {errors[way]:.2g}"}
    for way, times in time_in_turn(passes, device, seconds).items():
        yield {**common, "way": way, "error": errors[way], **times}


def _one_pass(block: Block, half: Half, inputs: list[torch.Tensor], number: int) -> torch.Tensor:
    with torch.inference_mode():
        return run_half(block, half, inputs[number % len(inputs)])
