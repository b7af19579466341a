"""Verify kernels on a device by running them and comparing the results with plain torch."""

from __future__ import annotations

import copy
import subprocess
from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from videoswin._text import in_one_line
from videoswin.model.attention import AttentionFn, box_attention, plain_attention
from videoswin.model.config import TINY
from videoswin.model.swin import Block
from videoswin.model.windows import Grid, WindowGeometry, bias_table_rows, window_geometry

if TYPE_CHECKING:
    from videoswin.acceleration.fused import Branch

TOLERANCE = {torch.float32: 2e-5, torch.float16: 4e-3, torch.bfloat16: 2e-2}
"""Maximum error of kernels, relative to the largest value. For attention, it is twice the error measured on a
CPU from rounding qkv, attention weights, gradients of logits and results. Fused branches round fewer values
and have the same bound."""


def attention_fault(
    attention: AttentionFn,
    device: torch.device,
    width: int = 32,
    window: Grid = TINY.window,
    dtype: torch.dtype = torch.bfloat16,
) -> str | None:
    """Run a Triton attention on a device and return its fault, or None; CUDA errors are raised.

    Args:
        attention: Attention function.
        device: Device to run on.
        width: Channels per head.
        window: Attention window (time, height, width).
        dtype: Type of qkv.
    """
    return measured_fault(lambda: largest_error(attention, device, width, window, dtype), TOLERANCE[dtype])


def branch_error(ours: Block, block: Block, branch: Branch, x: Tensor) -> float:
    """Return the error of a branch of `ours` against `block` in float32, relative to the largest value."""
    from videoswin.acceleration.fused import run_branch

    exact = copy.deepcopy(block).float()
    exact.attn.attention = box_attention
    expected = run_branch(exact, branch, x.float())
    return float((run_branch(ours, branch, x) - expected).abs().max() / expected.abs().max())


def kernel_failures() -> tuple[type[Exception], ...]:
    """Return the exceptions of kernels that cannot be compiled or run.

    Triton compiles on the first call. Its own errors are TritonError; a missing compiler, driver or ptxas is
    a RuntimeError, OSError or AssertionError; a failing one is a CalledProcessError.
    """
    from triton.errors import TritonError

    return TritonError, RuntimeError, OSError, AssertionError, subprocess.CalledProcessError


def measured_fault(measure: Callable[[], float], tolerance: float) -> str | None:
    """Measure the relative error of kernels, and return a fault if they fail or are inexact, else None."""
    try:
        error = measure()
    except (torch.AcceleratorError, torch.OutOfMemoryError):
        raise  # these RuntimeErrors are not faults of the kernel: the device is unusable, or memory is short
    except kernel_failures() as failure:
        return in_one_line(failure)
    # `<`, so that NaN is a fault.
    return None if error < tolerance else f"its results are off by {error:.2g}, relative to the largest"


def largest_error(
    attention: AttentionFn,
    device: torch.device,
    width: int,
    window: Grid = TINY.window,
    dtype: torch.dtype = torch.bfloat16,
) -> float:
    """Return the error of output and gradients in `dtype` against plain_attention in float32.

    It is relative to the largest value, for random input on a grid of two shifted windows per axis.
    """
    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, device="cpu").to(device)

    # The caller may use inference mode, whose tensors have no gradients.
    with torch.inference_mode(False):
        # Two windows along each axis, shifted along all axes: most of them wrap, in all possible ways.
        (p, m, n), (d, h, w) = window, (2 * size for size in window)
        geometry = window_geometry((d, h, w), window, (p // 2, m // 2, n // 2), False, device)
        qkv = normal(1, *geometry.grid, 3, 2, width).to(dtype)
        table = normal(bias_table_rows(window), 2)
        upstream = normal(1, *geometry.grid, 2 * width).to(dtype)
        return error_against_paper(attention, qkv, table, geometry, upstream)


def error_against_paper(
    attention: AttentionFn, qkv: Tensor, table: Tensor, geometry: WindowGeometry, upstream: Tensor
) -> float:
    """Return the error of output and gradients against plain_attention in float32.

    Args:
        attention: Attention function.
        qkv: (B, D, H, W, 3, heads, d).
        table: Bias table (offsets, heads).
        geometry: Windows of the grid.
        upstream: Gradient of the output, (B, D, H, W, heads * d).

    Returns:
        Largest error relative to the largest value; NaN if any value is NaN.
    """
    # The caller may use inference mode or autocast.
    with (
        torch.inference_mode(False),
        torch.enable_grad(),
        torch.autocast(qkv.device.type, enabled=False),
    ):
        qkv, table = qkv.detach().requires_grad_(), table.detach().requires_grad_()
        ours = attention(qkv, table, geometry)
        gradients = torch.autograd.grad(ours, (qkv, table), upstream)
        exact = qkv.detach().float().requires_grad_()
        paper = plain_attention(exact, table, geometry)
        expected = torch.autograd.grad(paper, (exact, table), upstream.float())
        pairs = zip((ours.detach(), *gradients), (paper.detach(), *expected), strict=True)
        return float(torch.stack([(a - b).abs().max() / b.abs().max() for a, b in pairs]).max())
