"""How much memory a training run will take, estimated from the sizes of its tensors before it starts.

Features are the numbers of all tokens in memory at a time: clips x time x height x width x channels.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Final, Literal, NamedTuple

import torch

from videoswin.model.config import MLP_RATIO, PATCH, VideoSwinConfig
from videoswin.model.swin import VideoSwin, token_grid
from videoswin.model.windows import Grid, clip_window, padded_grid
from videoswin.training.lora import set_trainable
from videoswin.video.spec import ClipSpec

Trainable = Literal["all", "head", "lora"]

FLOAT32: Final = 4
"""Bytes of a number in weights and optimizer, mixed precision or not."""
COMPUTED: Final[Mapping[str, int]] = MappingProxyType({"fp32": 4, "bf16": 2, "fp16": 2})
"""Bytes of a number in the network, by precision."""


class LayerBytes(NamedTuple):
    """What a block, or a layer between blocks, takes."""

    kept: int
    """From the forward pass until the backward pass."""
    entry: int
    """The part of it that is kept when blocks are recomputed."""
    working: int
    """Beyond that, while the layer is at work."""


def estimate_training_bytes(
    config: VideoSwinConfig,
    clip: ClipSpec,
    clips: int,
    *,
    precision: str,
    grad_checkpointing: bool,
    trainable: Trainable,
    average: bool,
    device_type: str,
    lora_rank: int = 8,
) -> int:
    """Bytes that training takes on a device, beyond what the process has before it makes the model.

    clips: those of one micro-batch on one device. precision: as in recipe.Run, ValueError for another.
    device_type: as torch spells it, `cpu` or `cuda`. Data workers are not counted.

    Weights, gradients, optimizer and average are exact; activations are counted per token, and the allocator
    is taken to waste as much as one block works with. On a CPU (Linux, glibc) the estimate was 0.72 to 1.26
    of the measured peak in 25 runs of NANO, TINY and BASE with 8 to 32 frames of 64 to 224 pixels, lowest for
    NANO with a frozen backbone or checkpointing. On CUDA it has not been measured.
    """
    if precision not in COMPUTED:
        raise ValueError(f"precision is {precision!r}, wanted one of {', '.join(COMPUTED)}")
    computed = COMPUTED[precision]
    with torch.device("meta"):
        model = VideoSwin(config)
    set_trainable(model, trainable, lora_rank)
    numbers = sum(parameter.numel() for parameter in model.parameters())
    learning = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    # Each learning number has a gradient, two moments of AdamW, and its average.
    states = FLOAT32 * (numbers + learning * (4 if average else 3))
    if computed < FLOAT32:
        states += computed * (
            learning if trainable == "head" else numbers
        )  # autocast's copies of the weights
    pixels = clips * config.in_channels * clip.frames * clip.size**2
    inputs = pixels * (1 + FLOAT32)  # as read, and normalized
    layers = list(
        layer_bytes(config, clip, clips, computed=computed, trainable=trainable, device_type=device_type)
    )
    wasted = max(layer.kept + layer.working for layer in layers)
    return states + inputs + _peak(layers, grad_checkpointing) + wasted


def format_bytes(count: int) -> str:
    """Return an amount of memory in GiB, or in MiB below a tenth of a GiB."""
    return f"{count / 2**30:.1f} GiB" if count >= 2**30 / 10 else f"{count / 2**20:.0f} MiB"


def _peak(layers: list[LayerBytes], grad_checkpointing: bool) -> int:
    """The most bytes alive at once: a layer at work, on top of what those before it have kept."""
    alive = peak = 0
    for layer in layers:
        peak = max(peak, alive + layer.kept + layer.working)
        alive += layer.entry if grad_checkpointing else layer.kept
    return peak


def layer_bytes(
    config: VideoSwinConfig,
    clip: ClipSpec,
    clips: int,
    *,
    computed: int,
    trainable: Trainable,
    device_type: str,
) -> Iterator[LayerBytes]:
    """Patch embedding, blocks and mergings in order; `computed`: bytes of a number in them."""
    normed = _norm_width(computed, device_type)
    t, h, w = token_grid((clip.frames, clip.size, clip.size))
    pixels = clips * config.in_channels * t * h * w * math.prod(PATCH)
    yield _between(pixels * computed, clips * t * h * w * config.embed_dim * normed, trainable)
    for stage, depth in enumerate(config.depths):
        block = _block(config, stage, (t, h, w), clips, computed, trainable, device_type)
        for _ in range(depth):
            yield block
        if stage + 1 < len(config.depths):
            h, w = -(-h // 2), -(-w // 2)
            merged = clips * t * h * w * 4 * config.stage_dim(stage)
            yield _between(merged * computed, merged * normed, trainable)


def _between(matrix_input: int, norm_input: int, trainable: Trainable) -> LayerBytes:
    """A matrix and a norm between blocks, which are never recomputed; inputs in bytes."""
    kept = matrix_input * (trainable == "all") + norm_input * (trainable != "head")
    return LayerBytes(kept=kept, entry=kept, working=0)


def _norm_width(computed: int, device_type: str) -> int:
    """Bytes of a number that goes into a norm: autocast on CUDA makes it a float32, on a CPU it does not."""
    return FLOAT32 if device_type == "cuda" else computed


def _block(
    config: VideoSwinConfig,
    stage: int,
    grid: Grid,
    clips: int,
    computed: int,
    trainable: Trainable,
    device_type: str,
) -> LayerBytes:
    """One block of a stage on a grid of tokens."""
    channels = config.stage_dim(stage)
    window, _ = clip_window(grid, config.window, (0, 0, 0))
    features = clips * math.prod(grid) * channels
    padded = clips * math.prod(padded_grid(grid, window)) * channels
    entry = features * _norm_width(computed, device_type)
    # A branch's result, and the hidden layer of the MLP, or its gradient, before and after GELU.
    working = entry + 2 * MLP_RATIO * features * computed
    if trainable == "head":
        return LayerBytes(kept=0, entry=0, working=entry + working)
    # Inputs of both norms; of qkv, the result (q, k, v), attention's of it; inputs of proj and of GELU.
    kept = 2 * entry + (5 * padded + (1 + MLP_RATIO) * features) * computed
    if trainable == "all":
        kept += (1 + MLP_RATIO) * features * computed  # inputs of the two matrices of the MLP
    else:
        kept += 4 * channels**2 * computed  # the matrices of qkv and proj with their low-rank changes
    if device_type == "cuda":
        # torch's fused kernel writes the gradient of the position bias for every window before it sums them.
        per_window = config.num_heads[stage] * math.prod(window) ** 2 * computed
        working = max(working, padded // channels // math.prod(window) * per_window)
    return LayerBytes(kept=kept, entry=entry, working=working)


def available_bytes(device: torch.device) -> int | None:
    """Memory that is free now on a device; on a CPU what the machine can give. None where it is not known."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    facts = Path("/proc/meminfo")  # Linux; what is free there is little, what is available counts
    if device.type != "cpu" or not facts.exists():
        return None
    lines = dict(line.split(":") for line in facts.read_text(encoding="ascii").splitlines())
    return int(lines["MemAvailable"].split()[0]) * 1024


def total_bytes(device: torch.device) -> int | None:
    """Memory that a device has, on a CPU the machine's; None where it is not known."""
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory
    if device.type != "cpu" or "SC_PHYS_PAGES" not in getattr(os, "sysconf_names", {}):
        return None
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
