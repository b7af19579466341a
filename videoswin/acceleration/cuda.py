"""Faster models on CUDA: attention kernels, fused branches, compiled blocks and CUDA graphs."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from functools import lru_cache, partial
from math import prod
from statistics import median
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from videoswin.acceleration.verify import TOLERANCE, attention_fault, branch_error, measured_fault
from videoswin.model.attention import AttentionFn, WindowAttention, box_attention
from videoswin.model.config import TINY
from videoswin.model.cpu import has_instructions_for
from videoswin.model.swin import Block, Stage, VideoSwin
from videoswin.model.windows import Grid

if TYPE_CHECKING:
    from videoswin.acceleration.fused import Branch

logger = logging.getLogger(__name__)

OLDEST = (8, 0)
"""Minimum compute capability, the first with tensor cores for bfloat16."""
TOKENS = 2**17
"""Minimum number of tokens for timing, representative of many clips: 2.5 clips in the first stage."""
WORTHWHILE = 0.95
"""Maximum time of a fused branch, as a fraction of the plain branch's time; smaller gains are noise."""

Milliseconds = Callable[[Callable[[], object]], float]
"""Measures the time of a call on the current device in milliseconds."""


def warn_if_emulated(device: torch.device | str, dtype: torch.dtype) -> None:
    """Log one warning if the CPU emulates this precision, with the measured slowdown.

    Args:
        device: Device of the model; only CPUs emulate.
        dtype: Type of weights and activations.
    """
    if torch.device(device).type != "cpu" or has_instructions_for(dtype):
        return
    slowdown = emulation_slowdown(dtype)
    if slowdown > 1:
        logger.warning(
            "this CPU has no instructions for %s, which takes about %.0f times as long as float32 "
            "(measured on one layer): use float32",
            str(dtype).removeprefix("torch."),
            slowdown,
        )


@lru_cache
def emulation_slowdown(dtype: torch.dtype) -> float:
    """Measure the time of a linear layer in `dtype` on this CPU, relative to float32.

    This takes about 50 ms. A layer of this size has about the same slowdown as whole models.
    """
    x = torch.ones(256, 256)
    layers = [partial(torch.nn.functional.linear, x.to(each), x.to(each)) for each in (torch.float32, dtype)]
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)  # so that programs on other cores have no influence
        with torch.inference_mode(), torch.autocast("cpu", enabled=False):
            seconds = [[_seconds(layer) for layer in layers] for _ in range(5)]
    finally:
        torch.set_num_threads(threads)
    plain, half = (min(times) for times in zip(*seconds, strict=True))
    return float(half / plain)


def _seconds(call: Callable[[], object]) -> float:
    start = time.thread_time()  # CPU time, because other programs may use the processor
    call()
    return time.thread_time() - start


def fastest_attention(
    device: torch.device | str,
    width: int = 32,
    window: Grid = TINY.window,
    dtype: torch.dtype = torch.bfloat16,
) -> AttentionFn:
    """Return `triton_attention` if it runs correctly on the device, else `box_attention`.

    The first call for each combination of arguments on a GPU compiles the kernels and compares them with
    `plain_attention`, which takes seconds. The log has the reason if the kernels are not used.

    Args:
        device: Device of the model.
        width: Channels per head, 32 in all published models.
        window: Attention window (time, height, width).
        dtype: bfloat16 or float16.
    """
    device = torch.device(device)
    if device.type != "cuda":
        logger.info("using box_attention, because the kernels need CUDA and the device is %s", device)
        return box_attention
    device = _with_index(device)
    fault = _attention_fault(device, width, window, dtype)
    if fault is not None:
        logger.warning("using box_attention instead of the kernels on %s: %s", device, fault)
        return box_attention
    from videoswin.acceleration.triton.attention import triton_attention

    return triton_attention


def use_fastest_attention(model: VideoSwin, device: torch.device | str, dtype: torch.dtype) -> None:
    """Set the attention of every block to the result of `fastest_attention`, in place.

    Args:
        model: Model to change.
        device: Device of the model.
        dtype: Half precision of the model's weights or of autocast. The kernels are for tensor cores, which
            do not support float32.
    """
    for module in model.modules():
        if isinstance(module, WindowAttention):
            width = module.proj.in_features // module.heads
            module.attention = fastest_attention(device, width, module.window, dtype)


def use_fastest_blocks(model: VideoSwin, device: torch.device | str, dtype: torch.dtype) -> None:
    """Apply `use_fastest_attention`, and fuse branches of blocks where that is faster; for inference only.

    The first call for each stage width compiles the fused branches, compares them with plain ones in float32
    and times both on many tokens; the log has the times. Nothing is fused under
    torch.use_deterministic_algorithms(True), because a choice by time may differ between processes, and the
    results then differ by rounding.

    Args:
        model: Model to change in place, with weights of type `dtype` on the device.
        device: Device of the model.
        dtype: bfloat16 or float16.
    """
    use_fastest_attention(model, device, dtype)
    device = torch.device(device)
    if torch.are_deterministic_algorithms_enabled() or device.type != "cuda" or _triton_fault(device):
        return
    from videoswin.acceleration.fused import can_fuse, fuse

    for stage in model.stages:
        assert isinstance(stage, Stage)
        first, *_ = stage.blocks
        assert isinstance(first, Block)
        if not can_fuse(first):
            continue
        attn = first.attn
        try:
            fuse(
                stage,
                _faster_branches(_with_index(device), dtype, attn.proj.in_features, attn.heads, attn.window),
            )
        except torch.OutOfMemoryError:
            logger.warning("stage of %d channels is not fused: out of memory", attn.proj.in_features)


@lru_cache(maxsize=64)
def _faster_branches(
    device: torch.device, dtype: torch.dtype, channels: int, heads: int, window: Grid
) -> tuple[Branch, ...]:
    """Return the faster branches on a GPU; cached, so that all models of a process compute equally."""
    from triton.testing import do_bench

    attention = fastest_attention(device, channels // heads, window, dtype)
    with torch.cuda.device(device):
        block = trial_block(channels, heads, window, attention).to(device, dtype)
        return faster_branches(block, partial(do_bench, warmup=5, rep=20, return_mode="median"))


def trial_block(channels: int, heads: int, window: Grid, attention: AttentionFn) -> Block:
    """Return a block on the CPU with random weights as large as trained ones, so that errors are visible."""
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


def faster_branches(block: Block, milliseconds: Milliseconds) -> tuple[Branch, ...]:
    """Return the branches of a block that are correct and faster when fused, on its device and dtype."""
    from videoswin.acceleration.fused import BRANCHES

    # Nothing is fused under autocast, which the caller may use.
    with torch.inference_mode(), torch.autocast(block.attn.proj.weight.device.type, enabled=False):
        return tuple(branch for branch in BRANCHES if _is_faster(block, branch, milliseconds))


def _is_faster(block: Block, branch: Branch, milliseconds: Milliseconds) -> bool:
    from videoswin.acceleration.fused import FusedBlock, run_branch

    name = f"{branch} of {block.attn.proj.in_features} channels"
    fused, x = FusedBlock(block, [branch]), trial_tokens(block)
    fault = measured_fault(lambda: branch_error(fused, block, branch, x[:2]), TOLERANCE[x.dtype])
    if fault is not None:
        logger.warning("%s is not fused on %s: %s", name, x.device, fault)
        return False
    runs = [partial(run_branch, each, branch, x) for each in (block, fused)]
    # Alternately, because a GPU becomes faster while it warms up.
    rounds = [[milliseconds(run) for run in runs] for _ in range(3)]
    before, after = (median(times) for times in zip(*rounds, strict=True))
    logger.info("%s: %.3f ms, fused %.3f", name, before, after)
    return bool(after < WORTHWHILE * before)


def trial_tokens(block: Block) -> Tensor:
    """Return at least TOKENS tokens in whole windows; they are small, so that a block's output dominates."""
    weight = block.attn.proj.weight
    grid = [2 * size for size in block.attn.window]
    clips = max(2, -(-TOKENS // prod(grid)))
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randn(clips, *grid, len(weight), generator=generator, device="cpu")
    return (2**-6 * tokens).to(weight)


def _with_index(device: torch.device) -> torch.device:
    """Return the CUDA device with its index."""
    return torch.device("cuda", torch.cuda.current_device()) if device.index is None else device


def _triton_fault(device: torch.device) -> str | None:
    """Return the reason why Triton cannot be used on a CUDA device, or None."""
    capability = torch.cuda.get_device_capability(device)
    if capability < OLDEST:
        return f"compute capability must be >= {OLDEST}, got {capability}"
    try:
        import triton  # noqa: F401
    except ImportError as error:
        return f"triton cannot be imported ({error})"
    return None


@lru_cache(maxsize=64)
def _attention_fault(device: torch.device, width: int, window: Grid, dtype: torch.dtype) -> str | None:
    """Return the reason why the attention kernels cannot be used on a device, or None; cached."""
    missing = _triton_fault(device)
    if missing is not None:
        return missing
    from videoswin.acceleration.triton.attention import WIDTHS, triton_attention

    if width not in WIDTHS:
        return f"channels per head must be one of {WIDTHS}, got {width}"
    return attention_fault(triton_attention, device, width, window, dtype)


def compile_blocks(model: VideoSwin, backend: str = "inductor") -> VideoSwin:
    """Compile each block of the model in place, on its first call, and return the model.

    Blocks are compiled separately, because blocks that differ only in their weights share a graph; compiling
    the whole model would create one graph of all blocks. Each stage, parity of blocks, drop path, mode and
    input size needs its own graph, so torch's process-wide recompile limit is raised.
    """
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
