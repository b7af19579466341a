"""Tracing, compilation, autocast and FLOP counting of the operators, without a GPU and without Triton."""

import copy
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from tests.acceleration.problems import WINDOWS, Problem, error, problem
from videoswin.acceleration.triton.attention import (
    triton_attention,
    window_attention,
    window_attention_backward,
)
from videoswin.model.config import VideoSwinConfig
from videoswin.model.swin import VideoSwin

TINIEST = VideoSwinConfig(embed_dim=16, depths=(2, 2), num_heads=(1, 2), window=(2, 3, 3), num_classes=3)


@pytest.fixture
def padded() -> Problem:
    return problem(*WINDOWS["padded"], batch=2)


def arguments(given: Problem, dtype: torch.dtype = torch.float64, learned: bool = True) -> tuple[Any, ...]:
    geometry = given.geometry
    qkv = given.qkv.to(dtype, copy=True).requires_grad_(learned)
    table = given.table.to(dtype, copy=True).requires_grad_(learned)
    return qkv, table, geometry.bias_index, geometry.window, geometry.shift


@pytest.mark.parametrize("kind", WINDOWS)
def test_the_operator_equals_the_paper_forward_and_backward(kind: str) -> None:
    given = problem(*WINDOWS[kind])
    qkv, table, *_ = arguments(given)
    out = triton_attention(qkv, table, given.geometry)
    assert error(out.detach(), given.answer()) < 1e-12
    for ours, paper in zip(
        torch.autograd.grad(out, (qkv, table), given.upstream), given.gradients(), strict=True
    ):
        assert error(ours, paper) < 1e-5  # log-sums and the gradient of the table are float32


def test_torch_opcheck_accepts_the_operators(padded: Problem) -> None:
    inputs = arguments(padded, torch.float32)
    torch.library.opcheck(window_attention, inputs)
    qkv, table, index, *cut = arguments(padded, torch.float32, learned=False)
    out, log_sums = window_attention(qkv, table, index, *cut)
    torch.library.opcheck(
        window_attention_backward, (padded.upstream.float(), qkv, table, index, out, log_sums, *cut)
    )


def test_qkv_need_not_be_contiguous(padded: Problem) -> None:
    strided = padded.qkv.transpose(1, 2).contiguous().transpose(1, 2)
    assert not strided.is_contiguous()
    assert error(triton_attention(strided, padded.table, padded.geometry), padded.answer()) < 1e-12


def test_autocast_rounds_qkv_and_not_the_bias_table(padded: Problem) -> None:
    seen: list[torch.dtype] = []
    qkv, table, *_ = arguments(padded, torch.float32)

    def pack(tensor: Tensor) -> Tensor:
        seen.append(tensor.dtype)
        return tensor

    with (
        torch.autocast("cpu", torch.bfloat16),
        torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor),
    ):
        out = triton_attention(qkv, table, padded.geometry)
    assert out.dtype == torch.bfloat16
    assert seen.count(torch.bfloat16) == 2  # qkv and out
    assert torch.float32 in seen
    gradients = torch.autograd.grad(out, (qkv, table), padded.upstream.to(out.dtype))
    assert [gradient.dtype for gradient in gradients] == [torch.float32] * 2
    assert error(out.detach(), padded.answer()) < 1e-2


def test_autocast_leaves_double_precision_alone(padded: Problem) -> None:
    with torch.autocast("cpu", torch.bfloat16):
        out = triton_attention(padded.qkv, padded.table, padded.geometry)
    assert error(out, padded.answer()) < 1e-12


def test_inference_mode_gives_the_same(padded: Problem) -> None:
    with torch.inference_mode():
        out = triton_attention(padded.qkv, padded.table, padded.geometry)
    assert error(out, padded.answer()) < 1e-12


def test_products_with_whole_windows_are_counted(padded: Problem) -> None:
    qkv, table, *_ = arguments(padded)
    batch, tokens, heads, width, n = 2, 4 * 6 * 6, 2, 16, 2 * 3 * 3
    with FlopCounterMode(display=False) as forward:
        out = triton_attention(qkv, table, padded.geometry)
    assert forward.get_total_flops() == 2 * (2 * batch * tokens * heads * width * n)
    with FlopCounterMode(display=False) as backward:
        out.sum().backward()
    assert backward.get_total_flops() == 5 * (2 * batch * tokens * heads * width * n)


@pytest.fixture
def clips() -> Tensor:
    return torch.randn(2, 3, 7, 30, 41, generator=torch.Generator().manual_seed(1))


def test_a_model_with_the_operator_compiles_to_one_graph_and_trains(clips: Tensor) -> None:
    torch.manual_seed(0)
    ours = VideoSwin(TINIEST.replace(depths=(1,), num_heads=(1,)), attention=triton_attention)
    eager = copy.deepcopy(ours)
    torch._dynamo.reset()
    logits = torch.compile(ours, backend="aot_eager", fullgraph=True)(clips)
    expected_logits = eager(clips)
    torch.testing.assert_close(logits, expected_logits)
    for each in (logits, expected_logits):
        each.sum().backward()
    for mine, expected in zip(ours.parameters(), eager.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, expected.grad)
