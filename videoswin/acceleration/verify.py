"""Whether kernels run on a device, and are right there, found out by running them."""

from __future__ import annotations

import copy
import subprocess
from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from videoswin.model.attention import AttentionFn, box_attention, plain_attention
from videoswin.model.config import TINY
from videoswin.model.swin import Block
from videoswin.model.windows import Grid, WindowGeometry, bias_table_rows, window_geometry

if TYPE_CHECKING:
    from videoswin.acceleration.fused import Branch

TOLERANCE = {torch.float32: 2e-5, torch.float16: 4e-3, torch.bfloat16: 2e-2}
"""Largest believable error of what kernels compute, relative to its largest number: for attention twice what
rounding qkv, weights, slopes and results, and nothing else, was found to do on a CPU. Fused branches round
fewer numbers, and keep the same bound."""


def why_not(
    attention: AttentionFn,
    device: torch.device,
    width: int = 32,
    window: Grid = TINY.window,
    dtype: torch.dtype = torch.bfloat16,
) -> str | None:
    """What is wrong with a Triton attention on a device, by trying it, or None. Errors of CUDA are raised."""
    return fault_found_by(lambda: largest_error(attention, device, width, window, dtype), TOLERANCE[dtype])


def branch_error(ours: Block, block: Block, branch: Branch, x: Tensor) -> float:
    """Of a branch of `ours` against that of `block` in float32, relative to the largest number."""
    from videoswin.acceleration.fused import run_branch

    exact = copy.deepcopy(block).float()
    exact.attn.attention = box_attention
    expected = run_branch(exact, branch, x.float())
    return float((run_branch(ours, branch, x) - expected).abs().max() / expected.abs().max())


def kernel_failures() -> tuple[type[Exception], ...]:
    """What kernels fail with where they cannot be compiled or run.

    Triton compiles when it is first called, and a machine may lack what that takes: its own errors are
    TritonError; a missing compiler, driver or ptxas is a RuntimeError, OSError or AssertionError, one that
    fails a CalledProcessError.
    """
    from triton.errors import TritonError

    return TritonError, RuntimeError, OSError, AssertionError, subprocess.CalledProcessError


def in_one_line(failure: Exception) -> str:
    """Its kind and the beginning of what it says."""
    return f"{type(failure).__name__}: {' '.join(str(failure).split())[:200]}"


def fault_found_by(measure: Callable[[], float], tolerance: float) -> str | None:
    """What is wrong with kernels whose error, relative to the largest number, is measured; or None."""
    try:
        error = measure()
    except (torch.AcceleratorError, torch.OutOfMemoryError):
        raise  # RuntimeErrors, too, but after the first the device is gone, and the second may pass
    except kernel_failures() as failure:
        return in_one_line(failure)
    # Written so that an error that is not a number is one.
    return None if error < tolerance else f"its results are off by {error:.2g}, relative to the largest"


def largest_error(
    attention: AttentionFn,
    device: torch.device,
    width: int,
    window: Grid = TINY.window,
    dtype: torch.dtype = torch.bfloat16,
) -> float:
    """Of output and gradients in `dtype` against the paper in float32, relative to the largest number."""
    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, device="cpu").to(device)

    # The caller may be predicting; what is made there could not be differentiated.
    with torch.inference_mode(False):
        # Two windows along each axis, shifted along all: most of them wrap, in every way there is.
        (p, m, n), (d, h, w) = window, (2 * size for size in window)
        geometry = window_geometry((d, h, w), window, (p // 2, m // 2, n // 2), False, device)
        qkv = normal(1, *geometry.grid, 3, 2, width).to(dtype)
        table = normal(bias_table_rows(window), 2)
        upstream = normal(1, *geometry.grid, 2 * width).to(dtype)
        return error_against_paper(attention, qkv, table, geometry, upstream)


def error_against_paper(
    attention: AttentionFn, qkv: Tensor, table: Tensor, geometry: WindowGeometry, upstream: Tensor
) -> float:
    """Of output and gradients against the paper in float32, relative to the largest number; NaN if any is.

    upstream: (B, D, H, W, heads * d), the gradient of the output.
    """
    # The caller may be predicting or casting; this is neither.
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
