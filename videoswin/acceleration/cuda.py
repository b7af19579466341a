"""Faster models on CUDA: Triton kernels after verification, compiled blocks and CUDA graphs."""

from __future__ import annotations

import copy
import subprocess
from collections.abc import Callable
from functools import lru_cache, partial
from typing import NoReturn

import torch
from torch import Tensor, nn

from videoswin._errors import InputError
from videoswin._text import in_one_line
from videoswin.acceleration.block import BRANCHES, Branch
from videoswin.model.attention import AttentionFn, WindowAttention, box_attention
from videoswin.model.swin import Block, Stage, VideoSwin
from videoswin.model.windows import Grid, WindowGeometry, bias_table_rows, window_geometry

OLDEST = (8, 0)
"""Minimum compute capability, the first with tensor cores for bfloat16."""
TOLERANCE = {torch.float32: 2e-5, torch.float16: 4e-3, torch.bfloat16: 2e-2}
"""Maximum error of kernels, relative to the largest value. For attention, it is twice the error measured on a
CPU from rounding qkv, attention weights, gradients of logits and results. Fused branches round fewer values
and have the same bound."""


def verified_triton_attention(model: VideoSwin, device: torch.device, dtype: torch.dtype) -> AttentionFn:
    """Return `triton_attention`, verified on the device for all blocks of a model.

    The first call for each combination of arguments compiles the kernels and compares them with
    `box_attention` in float32, which takes seconds.

    Args:
        model: Model that will use the attention; it is not changed.
        device: Device of the model.
        dtype: Precision of the model's weights or of autocast.

    Raises:
        InputError: The kernels cannot be used on this device, in this precision or for this model.
    """
    _require_triton(device, dtype)
    from videoswin.acceleration.triton.attention import WIDTHS, triton_attention

    for module in model.modules():
        if isinstance(module, WindowAttention):
            head_dim = module.proj.in_features // module.heads
            if head_dim not in WIDTHS:
                _refuse(f"{WIDTHS} channels per head", str(head_dim))
            if (fault := _attention_fault(_with_index(device), head_dim, module.window, dtype)) is not None:
                _refuse(f"kernels that work on {device}", fault)
    return triton_attention


def verified_fused_stages(model: VideoSwin, device: torch.device, dtype: torch.dtype) -> list[Stage]:
    """Return the stages whose channels `FusedBlock` supports, verified on the device.

    Arguments and exceptions are those of `verified_triton_attention`.

    Args:
        model: Model whose stages are verified; it is not changed.
        device: Device of the model.
        dtype: Precision of the model's weights or of autocast.

    Raises:
        InputError: The kernels cannot be used on this device or in this precision.
    """
    _require_triton(device, dtype)
    from videoswin.acceleration.fused import can_fuse

    stages = []
    for stage in model.stages:
        assert isinstance(stage, Stage)
        first, *_ = stage.blocks
        if isinstance(first, Block) and can_fuse(first):
            (channels,) = first.norm1.normalized_shape
            fault = _fused_fault(_with_index(device), dtype, channels, first.attn.heads, first.attn.window)
            if fault is not None:
                _refuse(f"kernels that work on {device}", fault)
            stages.append(stage)
    return stages


def _require_triton(device: torch.device, dtype: torch.dtype) -> None:
    """Raise InputError if Triton kernels cannot be used on a device or in a precision."""
    if device.type != "cuda":
        _refuse("a CUDA device", str(device))
    capability = torch.cuda.get_device_capability(device)
    if capability < OLDEST:
        _refuse(f"compute capability >= {OLDEST}", str(capability))
    if dtype not in (torch.float16, torch.bfloat16):  # the kernels are for tensor cores
        _refuse("precision float16 or bfloat16", str(dtype).removeprefix("torch."))
    try:
        import triton  # noqa: F401
    except ImportError as error:
        _refuse("the package triton (pip install 'videoswin[triton]')", in_one_line(error))


def _refuse(requirement: str, got: str) -> NoReturn:
    raise InputError(f"kernels=triton needs {requirement}, got {got}; leave kernels out to use PyTorch's own")


def _with_index(device: torch.device) -> torch.device:
    """Return the CUDA device with its index."""
    return torch.device("cuda", torch.cuda.current_device()) if device.index is None else device


@lru_cache(maxsize=64)
def _attention_fault(device: torch.device, head_dim: int, window: Grid, dtype: torch.dtype) -> str | None:
    """Return the fault of `triton_attention` on a device, or None; cached."""
    from videoswin.acceleration.triton.attention import triton_attention

    return measured_fault(
        partial(trial_attention_error, triton_attention, device, head_dim, window, dtype), TOLERANCE[dtype]
    )


@lru_cache(maxsize=64)
def _fused_fault(
    device: torch.device, dtype: torch.dtype, channels: int, heads: int, window: Grid
) -> str | None:
    """Return the fault of the fused branches on a device, or None; cached."""
    from videoswin.acceleration.fused import FusedBlock
    from videoswin.acceleration.triton.attention import triton_attention

    block = trial_block(channels, heads, window, triton_attention).to(device, dtype)
    x = trial_tokens(block)
    # Nothing is fused with gradients or under autocast, which the caller may use.
    with torch.inference_mode(), torch.autocast(device.type, enabled=False):
        for branch in BRANCHES:
            error = partial(branch_error, FusedBlock(block), block, branch, x)
            if (fault := measured_fault(error, TOLERANCE[dtype])) is not None:
                return f"{fault} ({branch} of {channels} channels)"
    return None


def measured_fault(measure: Callable[[], float], tolerance: float) -> str | None:
    """Measure the relative error of kernels, and return a fault if they fail or are inexact, else None."""
    try:
        error = measure()
    except (torch.AcceleratorError, torch.OutOfMemoryError):
        raise  # these RuntimeErrors are not faults of the kernel: the device is unusable, or memory is short
    except kernel_failures() as failure:
        return in_one_line(failure)
    # `<`, so that NaN is a fault.
    return None if error < tolerance else f"results that are off by {error:.2g} of the largest"


def kernel_failures() -> tuple[type[Exception], ...]:
    """Return the exceptions of kernels that cannot be compiled or run.

    Triton compiles on the first call. Its own errors are TritonError; a missing compiler, driver or ptxas is
    a RuntimeError, OSError or AssertionError; a failing one is a CalledProcessError.
    """
    from triton.errors import TritonError

    return TritonError, RuntimeError, OSError, AssertionError, subprocess.CalledProcessError


def trial_attention_error(
    attention: AttentionFn,
    device: torch.device,
    head_dim: int,
    window: Grid,
    dtype: torch.dtype,
) -> float:
    """Return the error of output and gradients in `dtype` against box_attention in float32.

    It is relative to the largest value, for random input on a grid of two shifted windows per axis.

    Args:
        attention: Attention function.
        device: Device to run it on.
        head_dim: Channels per head.
        window: Tokens of a window along time, height and width.
        dtype: Precision of qkv; the bias table is float32.

    Returns:
        As `attention_error`.
    """
    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, device="cpu").to(device)

    # The caller may use inference mode, whose tensors have no gradients.
    with torch.inference_mode(False):
        # Two windows along each axis, shifted along all axes: most of them wrap, in all possible ways.
        (p, m, n), (d, h, w) = window, (2 * size for size in window)
        geometry = window_geometry((d, h, w), window, (p // 2, m // 2, n // 2), False, device)
        qkv = normal(1, *geometry.grid, 3, 2, head_dim).to(dtype)
        table = normal(bias_table_rows(window), 2)
        upstream = normal(1, *geometry.grid, 2 * head_dim).to(dtype)
        return attention_error(attention, qkv, table, geometry, upstream)


def attention_error(
    attention: AttentionFn, qkv: Tensor, table: Tensor, geometry: WindowGeometry, upstream: Tensor
) -> float:
    """Return the error of output and gradients against box_attention in float32.

    Args:
        attention: Attention function.
        qkv: (B, D, H, W, 3, heads, head_dim).
        table: Bias table (offsets, heads).
        geometry: Windows of the grid.
        upstream: Gradient of the output, (B, D, H, W, heads * head_dim).

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
        reference = box_attention(exact, table, geometry)
        expected = torch.autograd.grad(reference, (exact, table), upstream.float())
        pairs = zip((ours.detach(), *gradients), (reference.detach(), *expected), strict=True)
        return float(torch.stack([(a - b).abs().max() / b.abs().max() for a, b in pairs]).max())


def branch_error(ours: Block, block: Block, branch: Branch, x: Tensor) -> float:
    """Return the error of a branch of `ours` against `block` in float32, relative to the largest value.

    Args:
        ours: Block with the kernels to verify.
        block: Reference block with the same weights; a copy of it runs in float32.
        branch: Branch to compare, "attention" or "mlp".
        x: Tokens (B, D, H, W, C).
    """
    exact = copy.deepcopy(block).float()
    exact.attn.attention = box_attention
    expected = run_branch(exact, branch, x.float())
    return float((run_branch(ours, branch, x) - expected).abs().max() / expected.abs().max())


def run_branch(block: Block, branch: Branch, x: Tensor) -> Tensor:
    """Add one branch of a block to the tokens: (B, D, H, W, C) -> (B, D, H, W, C).

    Args:
        block: Block to run.
        branch: "attention" or "mlp".
        x: Tokens (B, D, H, W, C).
    """
    return block.add_attention(x) if branch == "attention" else block.add_mlp(x)


def trial_block(channels: int, heads: int, window: Grid, attention: AttentionFn) -> Block:
    """Return a block on the CPU with random weights as large as trained ones, so that errors are visible.

    Args:
        channels: Channels of a token, C.
        heads: Attention heads; a divisor of `channels`.
        window: Tokens of a window along time, height and width; it is not shifted.
        attention: Attention function of the block.
    """
    with torch.random.fork_rng(devices=[]), torch.device("cpu"):  # keep the caller's random state
        block = Block(
            channels, heads, window, (0, 0, 0), sliced_bias=False, drop_path=0.0, attention=attention
        )
    generator = torch.Generator().manual_seed(0)
    for name, parameter in block.named_parameters():
        is_norm = name.startswith("norm") and name.endswith("weight")
        spread = 0.5 if name.endswith("bias_table") else 0.1
        torch.nn.init.normal_(parameter, mean=float(is_norm), std=spread, generator=generator)
    return block.eval()


def trial_tokens(block: Block, clips: int = 2) -> Tensor:
    """Return random tokens of two windows along each axis: (clips, D, H, W, C), on the block's device.

    They are small, so that a block's output dominates.
    """
    weight = block.attn.proj.weight
    grid = [2 * size for size in block.attn.window]
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randn(clips, *grid, len(weight), generator=generator, device="cpu")
    return (2**-6 * tokens).to(weight)


def compile_blocks(model: VideoSwin, backend: str = "inductor") -> VideoSwin:
    """Compile each block of the model in place, on its first call, and return the model.

    Blocks are compiled separately, because blocks that differ only in their weights share a graph; compiling
    the whole model would create one graph of all blocks. Each stage, parity of blocks, drop path, mode and
    input size needs its own graph, so torch's process-wide recompile limit is raised.
    """
    torch.compiler.assume_constant_result(window_geometry)  # type: ignore[no-untyped-call]
    torch._dynamo.config.recompile_limit = max(64, torch._dynamo.config.recompile_limit)
    for module in model.modules():
        if isinstance(module, Block):
            # The windows depend on the grid, so that no single graph fits all sizes.
            module.compile(fullgraph=True, dynamic=False, backend=backend)
    return model


class CapturedModel:
    """A model captured as a CUDA graph for one input shape, without the launch overhead of small batches.

    Example:
        captured = CapturedModel(model, clips)
        logits = captured(clips)
    """

    def __init__(self, model: nn.Module, example: Tensor) -> None:
        """Capture the model.

        The graph reads the model's weights from their current memory: changed values are used, but weights
        moved elsewhere are not. To use autocast, capture inside of it, with cache_enabled=False.

        Args:
            model: A VideoSwin or a PixelModel in eval mode.
            example: Clips or pixels (B, in, T, H, W) on the model's GPU.

        Raises:
            ValueError: The example is not on a GPU, or the model is in training mode.
        """
        if example.device.type != "cuda":
            raise ValueError(f"example must be on a CUDA device, got clips on {example.device}")
        if model.training:
            raise ValueError("model must be in eval mode, got training mode; call model.eval() first")
        self._clips = example.clone()
        with torch.cuda.device(example.device), torch.no_grad():
            side = torch.cuda.Stream()  # type: ignore[no-untyped-call]
            side.wait_stream(torch.cuda.current_stream())
            # Kernels, workspaces and geometries that are created once must exist before the capture.
            with torch.cuda.stream(side):
                for _ in range(3):
                    model(self._clips)
            torch.cuda.current_stream().wait_stream(side)
            self._graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(self._graph):
                self._logits: Tensor = model(self._clips)

    def __call__(self, clips: Tensor) -> Tensor:
        """Compute logits (B, K) of clips with the example's shape and type; they are a new tensor."""
        expected, got = ((tuple(each.shape), each.dtype) for each in (self._clips, clips))
        if expected != got:
            raise ValueError(f"clips must be {expected}, as captured, got {got}")
        self._clips.copy_(clips)
        self._graph.replay()
        return self._logits.clone()
