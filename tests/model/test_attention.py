"""box_attention equals the roll, partition and mask of the paper, and its cost."""

import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from tests.model.recorder import Recorder
from tests.model.reference import plain_attention
from videoswin.model.attention import WindowAttention, box_attention
from videoswin.model.config import VideoSwinConfig
from videoswin.model.swin import VideoSwin
from videoswin.model.windows import Grid, window_geometry

HEADS, WIDTH = 2, 4


@given(
    grid=st.tuples(*[st.integers(1, 9)] * 3),
    window=st.tuples(*[st.integers(1, 4)] * 3),
    shifted=st.booleans(),
    sliced_bias=st.booleans(),
    batch=st.integers(1, 2),
)
def test_boxes_equal_the_paper_forward_and_backward(
    grid: Grid, window: Grid, shifted: bool, sliced_bias: bool, batch: int
) -> None:
    shift = (window[0] // 2, window[1] // 2, window[2] // 2) if shifted else (0, 0, 0)
    geometry = window_geometry(grid, window, shift, sliced_bias, torch.device("cpu"))
    offsets = math.prod(2 * size - 1 for size in window)
    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, dtype=torch.float64, generator=generator)

    qkv = normal(batch, *geometry.grid, 3, HEADS, WIDTH).requires_grad_()
    table = normal(offsets, HEADS).requires_grad_()
    upstream = normal(batch, *geometry.grid, HEADS * WIDTH)
    ours = box_attention(qkv, table, geometry)
    paper = plain_attention(qkv, table, geometry)
    torch.testing.assert_close(ours, paper, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(
        torch.autograd.grad(ours, (qkv, table), upstream),
        torch.autograd.grad(paper, (qkv, table), upstream),
        rtol=1e-11,
        atol=1e-11,
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_fused_attention_without_gradients_equals_the_paper(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    geometry = window_geometry((9, 9, 8), (8, 7, 7), (4, 3, 3), False, torch.device("cpu"))
    qkv = torch.randn(1, *geometry.grid, 3, HEADS, 32).to(dtype)
    table = torch.randn(15 * 13 * 13, HEADS)
    paper = plain_attention(qkv.double(), table.double(), geometry)
    error = (box_attention(qkv, table, geometry).double() - paper).abs().max()
    assert error < {torch.float32: 1e-5, torch.bfloat16: 3e-2}[dtype]


def test_padding_takes_part_unmasked_with_the_bias_of_the_linear_layer() -> None:
    torch.manual_seed(0)
    attention = WindowAttention(8, 2, (2, 2, 2), (0, 0, 0), sliced_bias=False, attention=box_attention)
    x = torch.randn(1, 2, 2, 3, 8)
    padded = torch.cat([x, torch.zeros(1, 2, 2, 1, 8)], dim=3)
    torch.testing.assert_close(attention(x), attention(padded)[:, :, :, :3])


SHALLOW = VideoSwinConfig(embed_dim=32, depths=(2, 2), num_heads=(1, 2), num_classes=2)


@pytest.fixture(scope="module")
def recorded() -> Recorder:
    model = VideoSwin(SHALLOW).eval()
    with torch.no_grad(), Recorder() as recorder:
        model(torch.randn(1, 3, 32, 56, 56))
    return recorder


def test_no_tensor_is_larger_than_the_hidden_layer_of_the_mlp(recorded: Recorder) -> None:
    tokens, hidden = 16 * 14 * 14, 4 * 32
    assert max(map(math.prod, recorded.shapes)) == tokens * hidden  # attention weights: tokens * heads * 392


def test_nothing_is_masked_rolled_or_padded_without_need(recorded: Recorder) -> None:
    assert torch.bool not in recorded.dtypes
    assert not recorded.operators & {"roll", "pad", "constant_pad_nd", "new_zeros"}
    assert "_scaled_dot_product_flash_attention_for_cpu" in recorded.operators


def test_the_seam_takes_another_function() -> None:
    calls: list[tuple[int, ...]] = []

    def counting(qkv: Tensor, bias_table: Tensor, geometry: Any) -> Tensor:
        calls.append(geometry.grid)
        return plain_attention(qkv, bias_table, geometry)

    torch.manual_seed(0)
    model = VideoSwin(SHALLOW, attention=counting).eval()
    same = VideoSwin(SHALLOW).eval()
    same.load_state_dict(model.state_dict())
    clips = torch.randn(1, 3, 4, 32, 32)
    torch.testing.assert_close(model(clips), same(clips))
    assert calls == [(2, 14, 14)] * 2 + [(2, 4, 4)] * 2
    assert nn.Module.state_dict(model).keys() == same.state_dict().keys()
