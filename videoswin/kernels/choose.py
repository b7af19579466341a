"""Which kernels to hand to a model on a device: those of Triton where they run, are right, and pay."""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable
from functools import lru_cache, partial
from math import prod

import torch
from torch import Tensor

from videoswin.kernels.fused import HALVES, FusedBlock, Half, run_half
from videoswin.kernels.tiles import takes_channels
from videoswin.kernels.verify import fault_found_by, why_not
from videoswin.model.attention import AttentionFn, WindowAttention, box_attention
from videoswin.model.config import TINY
from videoswin.model.swin import Block, Stage, VideoSwin
from videoswin.model.windows import Grid

logger = logging.getLogger(__name__)

OLDEST = (8, 0)
"""Compute capability from which bfloat16 has tensor cores."""
WIDEST = 256
"""Channels up to which linear layers wait for memory. Beyond, they wait for the tensor cores, and the maker's
own products are as good as any."""
TOKENS = 2**17
"""Enough to see what many clips take: two and a half clips in the first stage."""


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


def use_fastest_blocks(model: VideoSwin, device: torch.device | str, dtype: torch.dtype) -> None:
    """`use_fastest_attention`, and blocks fused where that takes less time: for a model that only predicts.

    Fused blocks need weights of `dtype` on the device. Each stage's first block is tried on it with many
    tokens, both ways, half by half; the log has the times.
    """
    use_fastest_attention(model, device, dtype)
    device = torch.device(device)
    if device.type != "cuda" or _obstacle(device) is not None:
        return
    for stage in model.stages:
        assert isinstance(stage, Stage)
        first, *_ = stage.blocks
        assert isinstance(first, Block)
        halves = halves_that_pay(first, device, dtype)
        if halves:
            for number, block in enumerate(stage.blocks):
                assert isinstance(block, Block)
                stage.blocks[number] = FusedBlock(block, halves)


def halves_that_pay(
    block: Block,
    device: torch.device,
    dtype: torch.dtype,
    milliseconds: Callable[[Callable[[], object]], float] | None = None,
) -> tuple[Half, ...]:
    """Halves of the block that are right and take less time when fused.

    milliseconds: what a call takes; Triton's own measurement unless given.
    """
    (channels,) = block.norm1.normalized_shape
    if channels > WIDEST or not takes_channels(channels):
        return ()
    if milliseconds is None:
        from triton.testing import do_bench

        milliseconds = do_bench
    with torch.inference_mode(), torch.autocast(device.type, enabled=False):
        x = _tokens(block, channels).to(device, dtype)
        chosen: list[Half] = []
        for half in HALVES:
            plain, fused = partial(run_half, block, half), partial(run_half, FusedBlock(block, [half]), half)
            fault = fault_found_by(partial(half_error, block, half, fused, x[:2]))
            if fault is not None:
                logger.warning("%s of %d channels is not fused on %s: %s", half, channels, device, fault)
                continue
            before, after = milliseconds(partial(plain, x)), milliseconds(partial(fused, x))
            logger.info("%s of %d channels: %.3f ms, fused %.3f", half, channels, before, after)
            if after < before:
                chosen.append(half)
    return tuple(chosen)


def _tokens(block: Block, channels: int) -> Tensor:
    """Whole windows, and small numbers, so that what a block adds to them counts beside them."""
    grid = [2 * size for size in block.attn.window]
    clips = -(-TOKENS // prod(grid))
    return 2**-6 * torch.randn(clips, *grid, channels, generator=torch.Generator().manual_seed(0))


def half_error(block: Block, half: Half, fused: Callable[[Tensor], Tensor], x: Tensor) -> float:
    """Of a fused half of the block against the plain one in float32, relative to the largest number."""
    exact = copy.deepcopy(block).float()
    exact.attn.attention = box_attention
    expected = run_half(exact, half, x.float())
    return float((fused(x) - expected).abs().max() / expected.abs().max())


def _obstacle(device: torch.device) -> str | None:
    """Why no kernel of Triton can be used there, or None."""
    capability = torch.cuda.get_device_capability(device)
    if capability < OLDEST:
        return f"compute capability {capability} is below {OLDEST}"
    try:
        import triton  # noqa: F401
    except ImportError as error:
        return f"triton cannot be imported ({error})"
    return None


@lru_cache(maxsize=64)
def _fault(device: torch.device, width: int, window: Grid, dtype: torch.dtype) -> str | None:
    """Why the kernels cannot be used there, or None; found out once."""
    missing = _obstacle(device)
    if missing is not None:
        return missing
    from videoswin.kernels.window_attention import WIDTHS, triton_attention

    if width not in WIDTHS:
        return f"heads of {width} channels, not {WIDTHS}"
    return why_not(triton_attention, device, width, window, dtype)
