"""The forward kernel, run by Triton's interpreter, against the paper in float64.

Not in bfloat16, which the interpreter multiplies as if it were whole numbers; test_kernels_on_a_gpu.py does.
"""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.acceleration.problems import WINDOWS, Problem, error, problem
from tests.model.reference import partition, region_mask
from videoswin.model.windows import Grid

pytest.importorskip("triton")
pytestmark = pytest.mark.skipif(
    torch.cuda.is_available(), reason="for the interpreter; test_kernels_on_a_gpu.py runs here"
)

from videoswin.acceleration.triton.forward import attention_forward  # noqa: E402
from videoswin.acceleration.triton.tiles import Tiles  # noqa: E402


def ours(given: Problem, dtype: torch.dtype, tiles: Tiles | None = None) -> tuple[torch.Tensor, torch.Tensor]:
    geometry = given.geometry
    return attention_forward(
        given.qkv.to(dtype),
        given.table.float(),
        geometry.bias_index,
        geometry.window,
        geometry.shift,
        tiles,
    )


@pytest.mark.parametrize("kind", WINDOWS)
def test_every_kind_of_window_equals_the_paper(kind: str) -> None:
    given = problem(*WINDOWS[kind], heads=1)
    assert error(ours(given, torch.float32)[0], given.answer()) < 1e-5


def test_half_precision_is_near_the_paper() -> None:
    given = problem(*WINDOWS["shifted everywhere"])
    assert error(ours(given, torch.float16)[0], given.answer()) < 3e-3


def test_a_batch_of_several_heads_equals_the_paper() -> None:
    given = problem(*WINDOWS["shifted in time"], batch=2, heads=3)
    assert error(ours(given, torch.float32)[0], given.answer()) < 1e-5


@pytest.mark.parametrize("kind", ["clipped"])
def test_a_sliced_bias_equals_the_paper(kind: str) -> None:
    given = problem(*WINDOWS[kind], sliced_bias=True)
    assert error(ours(given, torch.float32)[0], given.answer()) < 1e-5


@pytest.mark.parametrize("width", [32, 64])  # 16 elsewhere
def test_every_width_of_a_head_equals_the_paper(width: int) -> None:
    given = problem(*WINDOWS["shifted in time"], width=width)
    assert error(ours(given, torch.float32)[0], given.answer()) < 1e-5


@pytest.mark.parametrize(
    "tiles",
    [
        Tiles(rows=16, columns=16, warps=4, stages=1),
        Tiles(rows=128, columns=64, warps=4, stages=1, windows=3),
    ],
    ids=str,
)
def test_the_answer_does_not_depend_on_the_tiles(tiles: Tiles) -> None:
    given = problem(*WINDOWS["two tiles of keys"], heads=1)
    assert error(ours(given, torch.float32, tiles)[0], given.answer()) < 1e-5


@given(
    grid=st.tuples(*[st.integers(1, 4)] * 3),
    window=st.tuples(*[st.integers(1, 3)] * 3),
    shifted=st.booleans(),
    sliced_bias=st.booleans(),
)
@settings(max_examples=6)
def test_any_grid_and_window_equal_the_paper(
    grid: Grid, window: Grid, shifted: bool, sliced_bias: bool
) -> None:
    shift = (window[0] // 2, window[1] // 2, window[2] // 2) if shifted else (0, 0, 0)
    given = problem(grid, window, shift, sliced_bias=sliced_bias, heads=1)
    assert error(ours(given, torch.float32)[0], given.answer()) < 1e-5


def test_log_sums_are_those_of_the_logits_in_base_two() -> None:
    given = problem(*WINDOWS["shifted everywhere"])
    geometry, head_dim = given.geometry, given.qkv.shape[-1]
    rolled = given.qkv.roll([-s for s in geometry.shift], dims=(1, 2, 3))
    windows = partition(rolled, geometry.window)  # (B, windows, N, 3, heads, head_dim)
    q, k, _ = windows.permute(3, 0, 1, 4, 2, 5)  # each (B, windows, heads, N, head_dim)
    logits = q @ k.mT * head_dim**-0.5 + given.table[geometry.bias_index].permute(2, 0, 1)
    visible = region_mask(geometry.grid, geometry.window, geometry.shift)
    logits = logits.masked_fill(~visible[None, :, None], float("-inf"))
    expected = logits.logsumexp(-1).flatten(0, 1) / math.log(2)  # (B * windows, heads, N)
    torch.testing.assert_close(ours(given, torch.float32)[1].double(), expected, rtol=1e-5, atol=1e-5)
