"""Time of the branches of blocks in each stage, plain and fused; part of benchmarks/gpu.py."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from math import prod

import torch
from torch import Tensor

from benchmarks.gpu_timing import FAILURES, Deadline, Pass, Row, failed, time_in_turn
from videoswin.acceleration.block import BRANCHES, Branch
from videoswin.acceleration.cuda import TOLERANCE, branch_error, run_branch, trial_block, trial_tokens
from videoswin.acceleration.fused import FusedBlock, can_fuse
from videoswin.acceleration.triton.attention import triton_attention
from videoswin.model.config import VideoSwinConfig
from videoswin.model.swin import Block


def compare_branches(
    configs: dict[str, VideoSwinConfig], device: torch.device, deadline: Deadline, seconds: float
) -> Iterator[Row]:
    """Yield a row for each branch of each stage, plain and fused, if the kernels support its channels."""
    for variant in [name for name in ("T", "B") if name in configs]:
        config = configs[variant]
        for stage, heads in enumerate(config.num_heads):
            block = trial_block(config.stage_dim(stage), heads, config.window, triton_attention)
            block = block.to(device, torch.bfloat16)
            for branch in BRANCHES if can_fuse(block) else ():
                common = {"variant": variant, "stage": stage + 1, "branch": branch}
                if deadline.passed():
                    yield {**common, "failed": "no time left"}
                else:
                    yield from _compare(block, branch, common, device, seconds)


def _compare(
    block: Block, branch: Branch, common: Row, device: torch.device, seconds: float
) -> Iterator[Row]:
    # Tokens of 2.5 clips in the first stage; at least two clips of four windows along each axis.
    clips = max(2, 2**17 // (8 * prod(block.attn.window)) if device.type == "cuda" else 0)
    inputs = [trial_tokens(block, clips).roll(number, 1) for number in range(3)]
    passes: dict[str, Pass] = {}
    errors: dict[str, float] = {}
    for way, blocks in {"plain": block, "fused": FusedBlock(block, [branch])}.items():
        try:
            with torch.inference_mode():
                errors[way] = branch_error(blocks, block, branch, inputs[0][:2])
        except FAILURES as error:
            yield {**common, "way": way, **failed(error)}
            continue
        if errors[way] <= TOLERANCE[torch.bfloat16]:
            passes[way] = partial(_one_pass, blocks, branch, inputs)
        else:
            yield {**common, "way": way, "failed": f"wrong by {errors[way]:.2g}"}
    for way, times in time_in_turn(passes, device, seconds).items():
        yield {**common, "way": way, "tokens": inputs[0][..., 0].numel(), "error": errors[way], **times}


def _one_pass(block: Block, branch: Branch, inputs: list[Tensor], number: int) -> Tensor:
    with torch.inference_mode():
        return run_branch(block, branch, inputs[number % len(inputs)])
