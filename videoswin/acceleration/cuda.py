"""Faster models on CUDA: attention kernels and fused blocks where they pay, compiled blocks, CUDA graphs."""

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

from videoswin.acceleration.verify import TOLERANCE, branch_error, fault_found_by, why_not
from videoswin.model.attention import AttentionFn, WindowAttention, box_attention
from videoswin.model.config import TINY
from videoswin.model.cpu import has_instructions_for
from videoswin.model.swin import Block, Stage, VideoSwin
from videoswin.model.windows import Grid

if TYPE_CHECKING:
    from videoswin.acceleration.fused import Branch

logger = logging.getLogger(__name__)

OLDEST = (8, 0)
"""Compute capability from which bfloat16 has tensor cores."""
TOKENS = 2**17
"""Enough to see what many clips take: two and a half clips in the first stage."""
WORTHWHILE = 0.95
"""Most of a branch's time that it may take when fused; what saves less is noise."""

Milliseconds = Callable[[Callable[[], object]], float]
"""What a call takes on the current device."""


def warn_if_emulated(device: torch.device | str, dtype: torch.dtype) -> None:
    """Log in one line how much slower half precision is on a CPU that has no instructions for it.

    Args:
        device: Where the model runs; only CPUs emulate.
        dtype: What it computes in.
    """
    if torch.device(device).type != "cpu" or has_instructions_for(dtype):
        return
    slowdown = emulation_slowdown(dtype)
    if slowdown > 1:
        logger.warning(
            "this CPU has no instructions for %s, which takes about %.0f times as long as float32 here "
            "(measured on one layer): use float32",
            str(dtype).removeprefix("torch."),
            slowdown,
        )


@lru_cache
def emulation_slowdown(dtype: torch.dtype) -> float:
    """Return how many times as long as in float32 a linear layer takes in `dtype` on this CPU.

    Takes some 50 milliseconds. A layer of this size comes close to what whole models lose.
    """
    x = torch.ones(256, 256)
    layers = [partial(torch.nn.functional.linear, x.to(each), x.to(each)) for each in (torch.float32, dtype)]
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)  # or other programs on the other cores would count
        with torch.inference_mode(), torch.autocast("cpu", enabled=False):
            seconds = [[_seconds(layer) for layer in layers] for _ in range(5)]
    finally:
        torch.set_num_threads(threads)
    plain, half = (min(times) for times in zip(*seconds, strict=True))
    return float(half / plain)


def _seconds(call: Callable[[], object]) -> float:
    start = time.thread_time()  # not the clock: others may use the processor meanwhile
    call()
    return time.thread_time() - start


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
    device = _numbered(device)
    fault = _fault(device, width, window, dtype)
    if fault is not None:
        logger.warning("box_attention instead of the kernels on %s: %s", device, fault)
        return box_attention
    from videoswin.acceleration.triton.attention import triton_attention

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
    """`use_fastest_attention`, and branches fused where that takes less time: for a model that only predicts.

    Fused branches need weights of `dtype` on the device. The first call for each width of a stage compiles
    them, compares them with plain ones in float32 and times both on many tokens; the log has the times.
    Nothing is fused under torch.use_deterministic_algorithms(True): what is chosen by its time may be another
    in another process, and then the last digits differ.
    """
    use_fastest_attention(model, device, dtype)
    device = torch.device(device)
    if torch.are_deterministic_algorithms_enabled() or device.type != "cuda" or _obstacle(device) is not None:
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
                _branches_that_pay(_numbered(device), dtype, attn.proj.in_features, attn.heads, attn.window),
            )
        except torch.OutOfMemoryError:
            logger.warning("stage of %d channels is not fused: no memory to try it", attn.proj.in_features)


@lru_cache(maxsize=64)
def _branches_that_pay(
    device: torch.device, dtype: torch.dtype, channels: int, heads: int, window: Grid
) -> tuple[Branch, ...]:
    """Those of a block on a GPU; found out once, so that every model of a process computes alike."""
    from triton.testing import do_bench

    attention = fastest_attention(device, channels // heads, window, dtype)
    with torch.cuda.device(device):
        block = trial_block(channels, heads, window, attention).to(device, dtype)
        return branches_that_pay(block, partial(do_bench, warmup=5, rep=20, return_mode="median"))


def trial_block(channels: int, heads: int, window: Grid, attention: AttentionFn) -> Block:
    """A block on the CPU with numbers as large as trained ones: nothing wrong is too small to show."""
    with torch.random.fork_rng(devices=[]), torch.device("cpu"):  # the caller's random state stays as it is
        block = Block(
            channels, heads, window, (0, 0, 0), sliced_bias=False, drop_path=0.0, attention=attention
        )
    generator = torch.Generator().manual_seed(0)
    for name, parameter in block.named_parameters():
        is_norm = name.startswith("norm") and name.endswith("weight")
        spread = 0.5 if name.endswith("bias_table") else 0.1
        torch.nn.init.normal_(parameter, mean=float(is_norm), std=spread, generator=generator)
    return block.eval()


def branches_that_pay(block: Block, milliseconds: Milliseconds) -> tuple[Branch, ...]:
    """Branches of a block, on its device and in its dtype, that are right and take less time when fused."""
    from videoswin.acceleration.fused import BRANCHES

    # The caller may be casting, and then nothing is fused.
    with torch.inference_mode(), torch.autocast(block.attn.proj.weight.device.type, enabled=False):
        return tuple(branch for branch in BRANCHES if _pays(block, branch, milliseconds))


def _pays(block: Block, branch: Branch, milliseconds: Milliseconds) -> bool:
    from videoswin.acceleration.fused import FusedBlock, run_branch

    name = f"{branch} of {block.attn.proj.in_features} channels"
    fused, x = FusedBlock(block, [branch]), trial_tokens(block)
    fault = fault_found_by(lambda: branch_error(fused, block, branch, x[:2]), TOLERANCE[x.dtype])
    if fault is not None:
        logger.warning("%s is not fused on %s: %s", name, x.device, fault)
        return False
    ways = [partial(run_branch, each, branch, x) for each in (block, fused)]
    # In turn, as a GPU gets faster while it warms up.
    took = [[milliseconds(way) for way in ways] for _ in range(3)]
    before, after = (median(times) for times in zip(*took, strict=True))
    logger.info("%s: %.3f ms, fused %.3f", name, before, after)
    return bool(after < WORTHWHILE * before)


def trial_tokens(block: Block) -> Tensor:
    """Whole windows, TOKENS or more, and small numbers, so that what a block adds to them counts."""
    weight = block.attn.proj.weight
    grid = [2 * size for size in block.attn.window]
    clips = max(2, -(-TOKENS // prod(grid)))
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randn(clips, *grid, len(weight), generator=generator, device="cpu")
    return (2**-6 * tokens).to(weight)


def _numbered(device: torch.device) -> torch.device:
    """A CUDA device by its number."""
    return torch.device("cuda", torch.cuda.current_device()) if device.index is None else device


def _obstacle(device: torch.device) -> str | None:
    """Why no kernel of Triton can be used on a CUDA device, or None."""
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
    from videoswin.acceleration.triton.attention import WIDTHS, triton_attention

    if width not in WIDTHS:
        return f"heads of {width} channels, not {WIDTHS}"
    return why_not(triton_attention, device, width, window, dtype)


def compile_blocks(model: VideoSwin, backend: str = "inductor") -> VideoSwin:
    """The model itself, with each block to be compiled when it first runs: slow at first, then fewer kernels.

    Block by block, because blocks that differ in their weights alone share a graph, where compiling the model
    whole would make one graph as long as all of them. Every stage, parity of blocks, drop path, mode and
    input size needs one of its own: torch's limit for that, of the whole process, is raised.
    """
    torch._dynamo.config.recompile_limit = max(64, torch._dynamo.config.recompile_limit)
    for module in model.modules():
        if isinstance(module, Block):
            # Windows depend on the size of the grid, so a graph for all sizes would not be a graph.
            module.compile(fullgraph=True, dynamic=False, backend=backend)
    return model


class CapturedModel:
    """Logits of one shape of clips by replaying a CUDA graph, as launches take longer than small batches."""

    def __init__(self, model: nn.Module, example: Tensor) -> None:
        """model: a VideoSwin, or a PixelModel around one.

        example: what it will get, clips or pixels (B, in, T, H, W), on its GPU; ValueError elsewhere.

        The graph reads the model's weights where they are: changed values count, moved weights do not. If the
        clips are to be computed under autocast, capture there, with cache_enabled=False.
        """
        if example.device.type != "cuda":
            raise ValueError(f"a graph is captured on a CUDA device, got clips on {example.device}")
        if model.training:
            raise ValueError("a graph is captured of a model that predicts; call model.eval() first")
        self._clips = example.clone()
        with torch.cuda.device(example.device), torch.no_grad():
            side = torch.cuda.Stream()  # type: ignore[no-untyped-call]
            side.wait_stream(torch.cuda.current_stream())
            # What is made once (kernels, workspaces, geometries) must not be made inside the graph.
            with torch.cuda.stream(side):
                for _ in range(3):
                    model(self._clips)
            torch.cuda.current_stream().wait_stream(side)
            self._graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(self._graph):
                self._logits: Tensor = model(self._clips)

    def __call__(self, clips: Tensor) -> Tensor:
        """(B, in, T, H, W) of the example's shape and type -> logits (B, K), the caller's to keep."""
        wanted, got = ((tuple(each.shape), each.dtype) for each in (self._clips, clips))
        if wanted != got:
            raise ValueError(f"captured for clips {wanted}, got {got}")
        self._clips.copy_(clips)
        self._graph.replay()
        return self._logits.clone()
