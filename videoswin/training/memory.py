"""Estimate the memory of a training run from the sizes of its tensors, before it starts.

A feature map has clips x time x height x width x channels values, counted over all tokens.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping
from functools import lru_cache
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

FLOAT32_BYTES: Final = 4
"""Bytes per value of parameters, gradients and optimizer state, also in mixed precision."""
BYTES_PER_VALUE: Final[Mapping[str, int]] = MappingProxyType({"fp32": 4, "bf16": 2, "fp16": 2})
"""Bytes per value of activations, by precision."""


class LayerBytes(NamedTuple):
    """Activation memory of a block, or of a layer between blocks, in bytes."""

    saved: int
    """Activations saved in the forward pass for the backward pass."""
    checkpoint: int
    """The part of them that is still saved if blocks are recomputed (gradient checkpointing)."""
    workspace: int
    """Additional memory while the layer runs."""


def estimate_training_bytes(
    config: VideoSwinConfig,
    clip: ClipSpec,
    clips: int,
    *,
    precision: str,
    grad_checkpointing: bool,
    trainable: Trainable,
    ema: bool,
    device_type: str,
    lora_rank: int = 8,
) -> int:
    """Estimate the memory that training takes on one device, beyond that of the process without a model.

    Parameters, gradients, optimizer state and moving average are exact. Activations are counted per token,
    and the allocator is assumed to waste as much as the largest block uses. On a CPU (Linux, glibc) the
    estimate was 0.72 to 1.26 of the measured peak in 25 runs of NANO, TINY and BASE with 8 to 32 frames of
    64 to 224 pixels, lowest for NANO with a frozen backbone or checkpointing. On CUDA it has not been
    measured.

    Args:
        config: The architecture.
        clip: Frames and size of a clip.
        clips: Clips of one micro-batch on one device.
        precision: `fp32`, `bf16` or `fp16`.
        grad_checkpointing: Whether blocks are recomputed in the backward pass.
        trainable: Trainable parameters, as in `videoswin.training.lora.set_trainable`.
        ema: Whether a moving average of the trainable parameters is kept.
        device_type: `cpu` or `cuda`.
        lora_rank: Rank of the low-rank updates.

    Returns:
        Bytes, without the memory of data workers.

    Raises:
        ValueError: The precision is unknown.
    """
    if precision not in BYTES_PER_VALUE:
        raise ValueError(f"precision must be one of {', '.join(BYTES_PER_VALUE)}, got {precision!r}")
    value_bytes = BYTES_PER_VALUE[precision]
    num_parameters, num_trainable = count_parameters(config, trainable, lora_rank)
    # A trainable parameter has a gradient, two moments of AdamW, and possibly an average.
    states = FLOAT32_BYTES * (num_parameters + num_trainable * (4 if ema else 3))
    if value_bytes < FLOAT32_BYTES:
        # autocast keeps a copy of the parameters in half precision
        states += value_bytes * (num_trainable if trainable == "head" else num_parameters)
    pixels = clips * config.in_channels * clip.frames * clip.size**2
    inputs = pixels * (1 + FLOAT32_BYTES)  # uint8 and normalized
    layers = list(
        layer_bytes(
            config, clip, clips, value_bytes=value_bytes, trainable=trainable, device_type=device_type
        )
    )
    waste = max(layer.saved + layer.workspace for layer in layers)
    return states + inputs + _peak(layers, grad_checkpointing) + waste


@lru_cache(maxsize=16)
def count_parameters(config: VideoSwinConfig, trainable: Trainable, lora_rank: int) -> tuple[int, int]:
    """Return the number of parameters of a model, and that of its trainable parameters.

    Args:
        config: Architecture, with the number of classes.
        trainable: Parameters that are trained.
        lora_rank: Rank of the changes if `trainable` is "lora".
    """
    with torch.device("meta"):
        model = VideoSwin(config)
    set_trainable(model, trainable, lora_rank)
    counts = [(parameter.numel(), parameter.requires_grad) for parameter in model.parameters()]
    return sum(count for count, _ in counts), sum(count for count, is_trainable in counts if is_trainable)


def format_bytes(count: int) -> str:
    """Format an amount of memory in GiB, or in MiB below 0.1 GiB."""
    return f"{count / 2**30:.1f} GiB" if count >= 2**30 / 10 else f"{count / 2**20:.0f} MiB"


def _peak(layers: list[LayerBytes], grad_checkpointing: bool) -> int:
    """Return the maximum over layers of its own memory plus that saved by all layers before it."""
    saved = peak = 0
    for layer in layers:
        peak = max(peak, saved + layer.saved + layer.workspace)
        saved += layer.checkpoint if grad_checkpointing else layer.saved
    return peak


def layer_bytes(
    config: VideoSwinConfig,
    clip: ClipSpec,
    clips: int,
    *,
    value_bytes: int,
    trainable: Trainable,
    device_type: str,
) -> Iterator[LayerBytes]:
    """Yield the activation memory of patch embedding, blocks and patch mergings, in forward order.

    Args:
        config: The architecture.
        clip: Frames and size of a clip.
        clips: Clips of one micro-batch on one device.
        value_bytes: Bytes per value of activations, from `BYTES_PER_VALUE`.
        trainable: Trainable parameters, as in `videoswin.training.lora.set_trainable`.
        device_type: `cpu` or `cuda`.
    """
    norm_bytes = _norm_input_bytes(value_bytes, device_type)
    t, h, w = token_grid((clip.frames, clip.size, clip.size))
    pixels = clips * config.in_channels * t * h * w * math.prod(PATCH)
    yield _linear_and_norm(pixels * value_bytes, clips * t * h * w * config.embed_dim * norm_bytes, trainable)
    for stage, depth in enumerate(config.depths):
        block = _block(config, stage, (t, h, w), clips, value_bytes, trainable, device_type)
        for _ in range(depth):
            yield block
        if stage + 1 < len(config.depths):
            h, w = -(-h // 2), -(-w // 2)
            merged = clips * t * h * w * 4 * config.stage_dim(stage)
            yield _linear_and_norm(merged * value_bytes, merged * norm_bytes, trainable)


def _linear_and_norm(linear_input: int, norm_input: int, trainable: Trainable) -> LayerBytes:
    """Return the memory of a linear layer and a norm between blocks, which are never recomputed.

    The sizes of their inputs are in bytes.
    """
    saved = linear_input * (trainable == "all") + norm_input * (trainable != "head")
    return LayerBytes(saved=saved, checkpoint=saved, workspace=0)


def _norm_input_bytes(value_bytes: int, device_type: str) -> int:
    """Return the bytes per value of the input of a norm, which autocast converts to float32 on CUDA only."""
    return FLOAT32_BYTES if device_type == "cuda" else value_bytes


def _block(
    config: VideoSwinConfig,
    stage: int,
    grid: Grid,
    clips: int,
    value_bytes: int,
    trainable: Trainable,
    device_type: str,
) -> LayerBytes:
    """Return the memory of one block of a stage on a token grid."""
    channels = config.stage_dim(stage)
    window, _ = clip_window(grid, config.window, (0, 0, 0))
    features = clips * math.prod(grid) * channels
    padded = clips * math.prod(padded_grid(grid, window)) * channels
    checkpoint = features * _norm_input_bytes(value_bytes, device_type)
    # The output of a branch, and the hidden layer of the MLP, or its gradient, before and after GELU.
    workspace = checkpoint + 2 * MLP_RATIO * features * value_bytes
    if trainable == "head":
        return LayerBytes(saved=0, checkpoint=0, workspace=checkpoint + workspace)
    # Inputs of both norms; input and output (q, k, v) of qkv, output of attention; inputs of proj and GELU.
    saved = 2 * checkpoint + (5 * padded + (1 + MLP_RATIO) * features) * value_bytes
    if trainable == "all":
        saved += (1 + MLP_RATIO) * features * value_bytes  # inputs of the two linear layers of the MLP
    else:
        saved += 4 * channels**2 * value_bytes  # merged weights of qkv and proj
    if device_type == "cuda":
        # torch's fused kernel writes the gradient of the position bias for every window before summing them.
        window_bytes = config.num_heads[stage] * math.prod(window) ** 2 * value_bytes
        workspace = max(workspace, padded // channels // math.prod(window) * window_bytes)
    return LayerBytes(saved=saved, checkpoint=checkpoint, workspace=workspace)


def available_bytes(device: torch.device) -> int | None:
    """Return the free memory of a device, on a CPU the available memory; None if it is unknown."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    meminfo = Path(
        "/proc/meminfo"
    )  # Linux. MemAvailable includes caches that can be dropped, MemFree does not.
    if device.type != "cpu" or not meminfo.exists():
        return None
    lines = dict(line.split(":") for line in meminfo.read_text(encoding="ascii").splitlines())
    return int(lines["MemAvailable"].split()[0]) * 1024


def total_bytes(device: torch.device) -> int | None:
    """Return the total memory of a device, on a CPU that of the machine; None if it is unknown."""
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory
    if device.type != "cpu" or "SC_PHYS_PAGES" not in getattr(os, "sysconf_names", {}):
        return None
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
