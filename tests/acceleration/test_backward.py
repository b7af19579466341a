"""The backward kernels in Triton's interpreter equal float64 gradients of plain_attention."""

import pytest
import torch
from torch import Tensor

from tests.acceleration.problems import WINDOWS, Problem, error, problem
from videoswin.model.windows import Grid

pytest.importorskip("triton")
pytestmark = pytest.mark.skipif(
    torch.cuda.is_available(), reason="for the interpreter; test_kernels_on_a_gpu.py runs here"
)

from videoswin.acceleration.triton.backward import attention_backward  # noqa: E402
from videoswin.acceleration.triton.forward import attention_forward  # noqa: E402
from videoswin.acceleration.triton.tiles import BackwardTiles, Tiles  # noqa: E402


def ours(given: Problem, dtype: torch.dtype, tiles: BackwardTiles | None = None) -> tuple[Tensor, Tensor]:
    geometry, qkv, table = given.geometry, given.qkv.to(dtype), given.table.float()
    cut = (geometry.window, geometry.shift)
    out, log_sums = attention_forward(qkv, table, geometry.bias_index, *cut)
    return attention_backward(
        given.upstream.to(dtype), qkv, table, geometry.bias_index, out, log_sums, *cut, tiles
    )


def errors(ours: tuple[Tensor, Tensor], theirs: tuple[Tensor, Tensor]) -> float:
    return max(error(mine, paper) for mine, paper in zip(ours, theirs, strict=True))


# Few, because the interpreter takes seconds; the forward kernel, which shares the index arithmetic, is tested
# with all kinds of windows.
@pytest.mark.parametrize(
    ("grid", "window", "shift"),
    [((2, 4, 4), (1, 2, 2), (0, 1, 1)), ((3, 4, 4), (3, 4, 4), (1, 2, 2))],
    ids=["shifted", "two tiles"],
)
def test_gradients_equal_the_paper(grid: Grid, window: Grid, shift: Grid) -> None:
    given = problem(grid, window, shift, heads=1)
    assert errors(ours(given, torch.float32), given.gradients()) < 1e-5


def test_gradients_in_half_precision_are_near_the_paper() -> None:
    given = problem((2, 2, 2), (1, 2, 2), (0, 0, 0), width=32)
    assert errors(ours(given, torch.float16), given.gradients()) < 5e-3


def test_gradients_of_a_batch_with_a_sliced_bias_equal_the_paper() -> None:
    given = problem(*WINDOWS["clipped"], sliced_bias=True, heads=1, batch=2)
    assert errors(ours(given, torch.float32), given.gradients()) < 1e-5


def test_gradients_do_not_depend_on_the_tiles() -> None:
    given = problem((3, 4, 4), (3, 4, 4), (0, 0, 0), heads=1)
    tile = Tiles(rows=16, columns=64, warps=4, stages=1)
    tiles = BackwardTiles(query=tile, key=tile, bias=tile)
    assert errors(ours(given, torch.float32, tiles), given.gradients()) < 1e-5
