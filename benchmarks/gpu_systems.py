"""The systems that benchmarks/gpu.py compares: whole models, and attention functions."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec

import torch
from torch import Tensor, nn

from benchmarks.peers import as_trained, torchvision_swin3d
from benchmarks.reference import Attend, ReferenceVideoSwin, fused_with_full_mask, materialised
from tests.model.reference import merge, partition, region_mask
from videoswin.acceleration.block import replace_blocks
from videoswin.acceleration.cuda import compile_blocks
from videoswin.acceleration.fused import FusedBlock, can_fuse
from videoswin.acceleration.triton.attention import triton_attention
from videoswin.model.attention import AttentionFn, box_attention
from videoswin.model.config import BASE, SMALL, TINY, VideoSwinConfig
from videoswin.model.swin import VideoSwin, token_grid
from videoswin.model.windows import Grid, WindowGeometry


@dataclass(frozen=True, kw_only=True)
class System:
    """An implementation of Video Swin with its precision and compilation."""

    build: Callable[[VideoSwin], nn.Module]
    """Builds a model with the weights of the given one."""
    weights: torch.dtype = torch.float32
    """Dtype of the weights; with float32, the model runs under autocast."""
    compiled: str = ""
    """"whole" or "blocks": the part compiled with torch.compile; empty for none."""
    quickest: bool = False
    """Whether to time it also as a CUDA graph, and its compiled form at more than one batch size."""
    learns: bool = True
    """Whether it supports training; if not, its gradients are not compared."""


def with_attention(attention: AttentionFn) -> Callable[[VideoSwin], nn.Module]:
    def build(ours: VideoSwin) -> nn.Module:
        model = VideoSwin(ours.config, attention=attention)
        model.load_state_dict(ours.state_dict())
        return model

    return build


def fused(ours: VideoSwin) -> nn.Module:
    """Return a model with our Triton attention, and fused blocks where the kernels support the channels."""
    model = with_attention(triton_attention)(ours)
    for stage in model.stages:
        if can_fuse(stage.blocks[0]):
            replace_blocks(stage, FusedBlock)
    return model


def reference(attend: Attend) -> Callable[[VideoSwin], nn.Module]:
    def build(ours: VideoSwin) -> nn.Module:
        model = ReferenceVideoSwin(ours.config, attend)
        model.load_state_dict(ours.state_dict())
        return model

    return build


def torchvision_model(ours: VideoSwin) -> nn.Module:
    (variant,) = (name for name, config in VARIANTS.items() if config == ours.config)
    return torchvision_swin3d(copy.deepcopy(ours).cpu(), variant.lower())


VARIANTS = {
    name: config.replace(sliced_bias=True) for name, config in (("T", TINY), ("S", SMALL), ("B", BASE))
}
"""The variants that torchvision has, with biases indexed as in torchvision."""
TORCHVISION = "torchvision, autocast"
EAGER = {
    TORCHVISION: System(build=torchvision_model),
    "reference, autocast": System(build=reference(materialised)),
    "sdpa with full mask, autocast": System(build=reference(fused_with_full_mask)),
    "boxes, autocast": System(build=with_attention(box_attention)),
    "triton, autocast": System(build=with_attention(triton_attention)),
    "torchvision, bfloat16": System(build=torchvision_model, weights=torch.bfloat16),
    "reference, bfloat16": System(build=reference(materialised), weights=torch.bfloat16),
    "boxes, bfloat16": System(build=with_attention(box_attention), weights=torch.bfloat16),
    "triton, bfloat16": System(build=with_attention(triton_attention), weights=torch.bfloat16, quickest=True),
    "fused, bfloat16": System(build=fused, weights=torch.bfloat16, quickest=True, learns=False),
}
COMPILED = {
    "torchvision, compiled, autocast": System(build=torchvision_model, compiled="whole"),
    "reference, compiled, autocast": System(build=reference(materialised), compiled="whole"),
    "boxes, compiled blocks, bfloat16": System(
        build=with_attention(box_attention), weights=torch.bfloat16, compiled="blocks"
    ),
    "triton, compiled blocks, autocast": System(build=with_attention(triton_attention), compiled="blocks"),
    "triton, compiled blocks, bfloat16": System(
        build=with_attention(triton_attention), weights=torch.bfloat16, compiled="blocks", quickest=True
    ),
    "fused, compiled blocks, bfloat16": System(
        build=fused, weights=torch.bfloat16, compiled="blocks", quickest=True, learns=False
    ),
}


def systems_here(config: VideoSwinConfig, systems: dict[str, System]) -> dict[str, System]:
    """Return the systems, without torchvision if it is not installed or has no such model."""
    if find_spec("torchvision") and config in VARIANTS.values():
        return systems
    return {name: system for name, system in systems.items() if system.build is not torchvision_model}


def initial_model(config: VideoSwinConfig, device: torch.device) -> VideoSwin:
    """Return a model with random weights that are distributed like trained ones."""
    torch.manual_seed(0)
    return as_trained(VideoSwin(config)).to(device)


@dataclass(frozen=True, kw_only=True)
class Run:
    """A system with weights on its device."""

    logits: Callable[[Tensor], Tensor]
    """Clips -> logits; the caller decides about gradients."""
    model: nn.Module
    """The model, without autocast."""


def prepared(system: System, ours: VideoSwin, backend: str) -> Run:
    """Return the system with the weights of `ours`, on its device; compilation happens at the first call."""
    device = next(ours.parameters()).device
    with device:  # initialization is faster on the device
        model = system.build(ours).to(device, system.weights).eval()
    forward: Callable[[Tensor], Tensor] = model
    if system.compiled == "whole":
        forward = torch.compile(model, dynamic=False, backend=backend)
    elif system.compiled:
        compile_blocks(model, backend)

    def logits(clips: Tensor) -> Tensor:
        with torch.autocast(device.type, torch.bfloat16, enabled=system.weights == torch.float32):
            return forward(clips)

    return Run(logits=logits, model=model)


def stage_grid(size: Grid, stage: int) -> Grid:
    """Return the grid of tokens (time, height, width) of a stage (0 is the first) for clips of `size`."""
    depth, *across = token_grid(size)
    height, width = (-(-length // 2**stage) for length in across)
    return depth, height, width


def through_windows(attend: Attend) -> AttentionFn:
    """Return an AttentionFn with explicit steps: roll, window partition, attention, merge, roll back."""
    masks: dict[int, Tensor] = {}

    def attention(qkv: Tensor, bias_table: Tensor, geometry: WindowGeometry) -> Tensor:
        shift, heads, width = geometry.shift, *qkv.shape[-2:]
        rolled = qkv.roll([-s for s in shift], dims=(1, 2, 3)) if any(shift) else qkv
        windows = partition(rolled, geometry.window).flatten(0, 1)  # (B * windows, N, 3, heads, head_dim)
        q, k, v = windows.permute(2, 0, 3, 1, 4)  # each (B * windows, heads, N, head_dim)
        bias = bias_table[geometry.bias_index].permute(2, 0, 1).to(q.dtype)  # (heads, N, N)
        if any(shift) and id(geometry) not in masks:
            visible = region_mask(geometry.grid, geometry.window, shift)
            masks[id(geometry)] = torch.where(visible, 0.0, -100.0).to(q.device, q.dtype)  # (windows, N, N)
        out = attend(q, k, v, bias, masks.get(id(geometry)))
        out = out.transpose(1, 2).reshape(len(qkv), -1, q.shape[2], heads * width)  # (B, windows, N, C)
        out = merge(out, geometry.window, geometry.grid)
        return out.roll(shift, dims=(1, 2, 3)) if any(shift) else out

    return attention


ATTENTIONS: dict[str, AttentionFn] = {
    "materialised": through_windows(materialised),
    "sdpa with full mask": through_windows(fused_with_full_mask),
    "boxes": box_attention,
    "triton": triton_attention,
}
