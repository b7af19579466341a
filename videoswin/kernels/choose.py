"""Which attention to hand to a model on a device: the Triton kernels where they run and are right."""

from __future__ import annotations

import logging
import subprocess
from functools import lru_cache

import torch
from torch import Tensor

from videoswin.model.attention import AttentionFn, WindowAttention, box_attention, plain_attention
from videoswin.model.config import TINY
from videoswin.model.swin import VideoSwin
from videoswin.model.windows import Grid, WindowGeometry, bias_table_rows, window_geometry

logger = logging.getLogger(__name__)

OLDEST = (8, 0)
"""Compute capability from which bfloat16 has tensor cores."""
TOLERANCE = 1e-2
"""Largest believable error of attention and its gradients, relative to their largest number."""


def fastest_attention(
    device: torch.device | str,
    width: int = 32,
    window: Grid = TINY.window,
    dtype: torch.dtype = torch.bfloat16,
) -> AttentionFn:
    """`triton_attention` if the device is a GPU on which it runs and is right, else `box_attention`.

    width: channels of a head, 32 in all published models. dtype: bfloat16 or float16. The first call for each
    of them on a GPU compiles the kernels and compares them with the paper, which takes seconds; the log says
    why the kernels are not used.
    """
    device = torch.device(device)
    if device.type != "cuda":
        logger.info("box_attention: the kernels are for CUDA, and this is %s", device)
        return box_attention
    if device.index is None:
        device = torch.device("cuda", torch.cuda.current_device())
    fault = _fault(device, width, window, dtype)
    if fault is not None:
        logger.warning("box_attention instead of the kernels on %s: %s", device, fault)
        return box_attention
    from videoswin.kernels.window_attention import triton_attention

    return triton_attention


def use_fastest_attention(model: VideoSwin, device: torch.device | str, dtype: torch.dtype) -> None:
    """Hand every block of the model the attention that `fastest_attention` names for its heads there.

    dtype: the half precision that the model computes in, by its weights or under autocast. The kernels are
    made for tensor cores, which have no float32.
    """
    for module in model.modules():
        if isinstance(module, WindowAttention):
            width = module.proj.in_features // module.heads
            module.attention = fastest_attention(device, width, module.window, dtype)


@lru_cache(maxsize=64)
def _fault(device: torch.device, width: int, window: Grid, dtype: torch.dtype) -> str | None:
    """Why the kernels cannot be used there, or None; found out once."""
    capability = torch.cuda.get_device_capability(device)
    if capability < OLDEST:
        return f"compute capability {capability} is below {OLDEST}"
    from videoswin.kernels.window_attention import WIDTHS, triton_attention

    if width not in WIDTHS:
        return f"heads of {width} channels, not {WIDTHS}"
    try:
        import triton  # noqa: F401
    except ImportError as error:
        return f"triton cannot be imported ({error})"

    return why_not(triton_attention, device, width, window, dtype)


def why_not(
    attention: AttentionFn,
    device: torch.device,
    width: int = 32,
    window: Grid = TINY.window,
    dtype: torch.dtype = torch.bfloat16,
) -> str | None:
    """What is wrong with a Triton attention on a device, by trying it, or None. Errors of CUDA are raised.

    Triton compiles when it is first called, and a machine may lack what that takes: its own errors are
    TritonError; a missing compiler, driver or ptxas is a RuntimeError, OSError or AssertionError, one that
    fails a CalledProcessError.
    """
    from triton.errors import TritonError

    try:
        error = largest_error(attention, device, width, window, dtype)
    except (torch.AcceleratorError, torch.OutOfMemoryError):
        raise  # RuntimeErrors, too, but after the first the device is gone, and the second may pass
    except (TritonError, RuntimeError, OSError, AssertionError, subprocess.CalledProcessError) as failure:
        return f"{type(failure).__name__}: {' '.join(str(failure).split())[:200]}"
    # Written so that an error that is not a number is one.
    return None if error < TOLERANCE else f"its results are off by {error:.2g}, relative to the largest"


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
        return torch.randn(shape, generator=generator).to(device)

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
