"""Faster, numerically equal implementations, which replace those of an existing model from outside."""

from __future__ import annotations

from typing import Literal

import torch

from videoswin._errors import InputError
from videoswin.acceleration.block import InferenceBlock, replace_blocks
from videoswin.acceleration.cpu import CPUBlock, recompute_attention, warn_if_emulated
from videoswin.acceleration.cuda import verified_fused_stages, verified_triton_attention
from videoswin.model.attention import AttentionFn, WindowAttention, box_attention
from videoswin.model.swin import Block, Stage, VideoSwin

Kernels = Literal["triton"]
"""Kernels that can be chosen instead of PyTorch's own."""


def optimize_for_inference(
    model: VideoSwin,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
    *,
    kernels: Kernels | None = None,
) -> VideoSwin:
    """Make a model faster for inference, in place, and return it.

    The model stays a VideoSwin with the same state dict, and its logits are equal up to rounding. It is set
    to eval mode; its attention function and its blocks are replaced by the fastest ones for the device. Where
    gradients are recorded, or a layer was replaced or has hooks, blocks compute as before.

    Args:
        model: Model to change.
        device: Device to move the model to; None keeps it where it is.
        dtype: Precision of weights and activations; None keeps it.
        kernels: None computes with PyTorch: on a CPU in pieces that fit the cache, elsewhere with
            scaled_dot_product_attention. "triton" uses the Triton kernels of this package on an NVIDIA GPU;
            their first use compiles them and verifies their results on the device. They become the default
            for a generation of GPUs when `benchmarks/results/` has a result of it.

    Raises:
        InputError: `kernels` cannot be used on this device, in this precision or for this model. The model
            is not changed.

    Example:
        model = optimize_for_inference(load_model("tiny-k400"), "cuda", torch.bfloat16)
    """
    weight = next(model.parameters())
    device = weight.device if device is None else torch.device(device)
    dtype = weight.dtype if dtype is None else dtype
    attention = _chosen_attention(model, device, dtype, kernels) or box_attention
    fused = verified_fused_stages(model, device, dtype) if kernels else []
    warn_if_emulated(device, dtype)
    model.to(device, dtype).eval()
    _set_attention(model, attention)
    for stage in model.stages:
        assert isinstance(stage, Stage)
        if stage in fused:
            from videoswin.acceleration.fused import FusedBlock

            replace_blocks(stage, FusedBlock)
        else:
            replace_blocks(stage, CPUBlock if device.type == "cpu" else _plain)
    return model


def use_training_attention(
    model: VideoSwin, device: torch.device | str, dtype: torch.dtype, *, kernels: Kernels | None = None
) -> None:
    """Set the attention function of all blocks to the best one for training, in place.

    Args:
        model: Model to change.
        device: Device of the model.
        dtype: Precision of autocast or of the weights.
        kernels: As for `optimize_for_inference`.

    Raises:
        InputError: `kernels` cannot be used on this device, in this precision or for this model.
    """
    device = torch.device(device)
    own = recompute_attention if device.type == "cpu" else box_attention
    _set_attention(model, _chosen_attention(model, device, dtype, kernels) or own)


def resolve_device(device: str) -> torch.device:
    """Return the torch device; raise InputError if this machine or this build of torch does not have it."""
    if device == "auto":
        return torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")
    try:
        resolved = torch.device(device)
    except RuntimeError as error:
        raise InputError(f"device must be auto, cpu, cuda, cuda:N or mps, got {device!r}") from error
    try:
        torch.empty(0, device=resolved)
    # torch raises these for an unknown index, a build without CUDA, and an absent backend.
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"device {device!r} cannot be used here ({reason}); try 'auto' or 'cpu'") from error
    return resolved


def _chosen_attention(
    model: VideoSwin, device: torch.device, dtype: torch.dtype, kernels: Kernels | None
) -> AttentionFn | None:
    """Return the verified attention function of these kernels; None without a choice."""
    if kernels not in (None, "triton"):
        raise InputError(f"kernels must be 'triton' or None, got {kernels!r}")
    return verified_triton_attention(model, device, dtype) if kernels else None


def _set_attention(model: VideoSwin, attention: AttentionFn) -> None:
    for module in model.modules():
        if isinstance(module, WindowAttention):
            module.attention = attention


def _plain(block: Block) -> Block:
    """Return a block that computes plain branches: this one, or one with the layers of an InferenceBlock."""
    return block if type(block) is Block else InferenceBlock(block)
