"""Inference and training on a CPU have the results of the plain layers."""

import copy
import math

import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from tests.acceleration.problems import Problem, problem
from tests.model.recorder import Recorder
from tests.model.reference import plain_attention
from videoswin.acceleration import cpu, optimize_for_inference
from videoswin.acceleration.cpu import (
    CPUBlock,
    attention_in_pieces,
    linear,
    recompute_attention,
    warn_if_emulated,
)
from videoswin.model.attention import WindowAttention, box_attention
from videoswin.model.config import NANO, VideoSwinConfig
from videoswin.model.swin import VideoSwin
from videoswin.model.windows import Grid

TOLERANCE = {torch.float32: 2e-6, torch.bfloat16: 2e-2}
SHALLOW = VideoSwinConfig(embed_dim=32, depths=(2, 2), num_heads=(1, 2), num_classes=2)
FULL_WINDOWS = ((16, 14, 14), (8, 7, 7), (4, 3, 3))


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("gelu", [False, True])
@pytest.mark.parametrize("bias", [False, True])
def test_linear_equals_the_layer(dtype: torch.dtype, gelu: bool, bias: bool) -> None:
    torch.manual_seed(0)
    layer = nn.Linear(24, 40, bias=bias).to(dtype)
    x = torch.randn(3, 5, 24, dtype=dtype)
    with torch.no_grad():
        expected = copy.deepcopy(layer).double()(x.double())
        expected = nn.functional.gelu(expected) if gelu else expected
        difference = (linear(x, layer, gelu=gelu).double() - expected).abs().max()
    assert difference < TOLERANCE[dtype]


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize(
    ("grid", "shift"),
    [((9, 9, 10), (4, 3, 3)), ((8, 14, 14), (4, 3, 3)), ((8, 21, 7), (0, 0, 0)), ((2, 3, 3), (4, 3, 3))],
)
def test_attention_in_pieces_equals_attention_of_whole_tensors(
    grid: Grid, shift: Grid, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cpu, "CACHED_NUMBERS", 2**16)
    torch.manual_seed(0)
    attention = WindowAttention(32, 2, (8, 7, 7), shift, sliced_bias=False, attention=box_attention)
    nn.init.normal_(attention.relative_position_bias_table)
    x = torch.randn(2, *grid, 32)
    with torch.no_grad():
        expected = attention(x)
        ours = attention_in_pieces(x.to(dtype), attention.to(dtype))
    assert (ours - expected).abs().max() < TOLERANCE[dtype]


@pytest.mark.parametrize("capabilities", [{"avx2": True}, {"avx512_bf16": True}], ids=str)
def test_bfloat16_is_multiplied_in_steps_only_where_the_cpu_has_instructions_for_it(
    capabilities: dict[str, bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities)
    q, k, v = torch.randn(3, 4, 2, 8, 4)
    bias = torch.randn(1, 2, 8, 8)
    half = [x.bfloat16() for x in (q, k, v, bias)]
    with torch.no_grad(), torch.profiler.profile() as profile:
        ours = cpu._attend(*half)
    fused = "aten::scaled_dot_product_attention" in {event.key for event in profile.key_averages()}
    assert fused is ("avx2" in capabilities)
    expected = nn.functional.scaled_dot_product_attention(*[x.double() for x in (q, k, v, bias)])
    assert (ours.double() - expected).abs().max() < 3e-2


@pytest.fixture(scope="module")
def full_windows() -> Problem:
    return problem(*FULL_WINDOWS, heads=1, width=16)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 2e-2)], ids=str)
def test_recomputed_gradients_of_full_windows_equal_the_paper(
    dtype: torch.dtype, tolerance: float, full_windows: Problem
) -> None:
    given = full_windows
    qkv, table = given.qkv.to(dtype).requires_grad_(), given.table.float().requires_grad_()
    out = recompute_attention(qkv, table, given.geometry)
    gradients = torch.autograd.grad(out, (qkv, table), given.upstream.to(dtype))
    for ours, expected in zip(gradients, given.gradients(), strict=True):
        assert (ours - expected).abs().max() < tolerance * expected.abs().max()


def test_recomputed_attention_has_the_output_of_box_attention(full_windows: Problem) -> None:
    qkv, table = full_windows.qkv.float(), full_windows.table.float()
    expected = box_attention(qkv, table, full_windows.geometry)
    assert torch.equal(recompute_attention(qkv, table, full_windows.geometry), expected)
    assert torch.equal(recompute_attention(qkv, table.requires_grad_(), full_windows.geometry), expected)


def test_training_keeps_no_attention_weights_for_the_backward_pass() -> None:
    kept: list[torch.Size] = []

    def pack(tensor: Tensor) -> Tensor:
        kept.append(tensor.shape)
        return tensor

    model = VideoSwin(SHALLOW, attention=recompute_attention)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor), Recorder() as recorder:
        model(torch.randn(1, 3, 32, 56, 56))
    tokens, hidden = 16 * 14 * 14, 4 * 32  # attention weights would be tokens * heads * 392
    assert max(map(math.prod, kept)) == tokens * hidden
    assert max(map(math.prod, recorder.shapes)) == tokens * hidden


def block(attention=box_attention) -> CPUBlock:
    torch.manual_seed(0)
    return CPUBlock(VideoSwin(NANO, attention=attention).stages[0].blocks[1].eval())


def test_another_attention_function_is_called() -> None:
    calls = []

    def counting(*arguments) -> Tensor:
        calls.append(arguments)
        return plain_attention(*arguments)

    with torch.no_grad():
        torch.testing.assert_close(
            block(counting)(x := torch.randn(1, 4, 6, 6, 32)), block()(x), rtol=1e-5, atol=1e-5
        )
    assert calls


@pytest.mark.filterwarnings("ignore:TF32 acceleration")
def test_switching_onednn_off_is_heeded() -> None:
    layer, x = nn.Linear(8, 8), torch.randn(2, 8)
    if not torch.backends.mkldnn.is_available():
        pytest.skip("this torch has no oneDNN")
    for enabled in (True, False):
        with (
            torch.no_grad(),
            torch.backends.mkldnn.flags(enabled=enabled),
            torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile,
        ):
            linear(x, layer)
        names = {event.key for event in profile.key_averages()}
        assert ("mkldnn::_linear_pointwise" in names) is enabled


def test_the_plain_product_is_used_where_torch_lacks_the_fused_one(monkeypatch: pytest.MonkeyPatch) -> None:
    layer, x = nn.Linear(8, 8), torch.randn(2, 8)
    monkeypatch.setattr(torch.ops, "mkldnn", object())
    with torch.no_grad():
        assert torch.equal(linear(x, layer), layer(x))


def test_counted_operations_are_those_of_the_plain_model() -> None:
    model, clips = VideoSwin(NANO.replace(depths=(2,), num_heads=(1,))), torch.randn(1, 3, 8, 64, 64)
    counts = []
    for each in (model, optimize_for_inference(copy.deepcopy(model))):
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            each(clips)
        counts.append(counter.get_total_flops())
    assert counts[0] == counts[1]


@pytest.mark.parametrize("capabilities", [{}, {"avx2": True}, {"bf16": True}], ids=str)
def test_emulated_half_precision_gets_one_warning(
    capabilities: dict[str, bool], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities)
    for dtype in (torch.bfloat16, torch.float16, torch.float32):
        warn_if_emulated("cpu", dtype)
        warn_if_emulated("cuda", dtype)
    assert [record.getMessage() for record in caplog.records] == [
        f"this CPU has no instructions for {name} and emulates it, which is slow: use float32"
        for name in ("bfloat16", "float16")
    ]


def test_native_half_precision_gets_no_warning(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    capabilities = {"amx_bf16": True, "avx512_fp16": True}
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities)
    warn_if_emulated("cpu", torch.bfloat16)
    warn_if_emulated("cpu", torch.float16)
    assert caplog.records == []
