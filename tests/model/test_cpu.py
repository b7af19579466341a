"""Inference code for CPUs has the same results as the plain layers."""

import copy

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from videoswin.model.attention import WindowAttention, box_attention
from videoswin.model.config import NANO
from videoswin.model.cpu import fits_pieces, linear
from videoswin.model.swin import MLP, VideoSwin
from videoswin.model.windows import Grid

TOLERANCE = {torch.float32: 2e-6, torch.bfloat16: 2e-2}


@pytest.mark.parametrize("dtype", TOLERANCE)
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


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize(
    ("grid", "shift"),
    [((9, 9, 10), (4, 3, 3)), ((16, 14, 14), (4, 3, 3)), ((8, 21, 7), (0, 0, 0)), ((2, 3, 3), (4, 3, 3))],
)
def test_attention_in_pieces_equals_attention_with_gradients(
    grid: Grid, shift: Grid, dtype: torch.dtype
) -> None:
    torch.manual_seed(0)
    attention = WindowAttention(64, 2, (8, 7, 7), shift, sliced_bias=False, attention=box_attention)
    nn.init.normal_(attention.relative_position_bias_table)
    x = torch.randn(2, *grid, 64)
    expected = attention(x)  # gradients are recorded: whole tensors
    with torch.no_grad():
        assert fits_pieces(x)
        ours = attention.to(dtype)(x.to(dtype))
    assert (ours - expected).abs().max() < TOLERANCE[dtype]


def test_autocast_is_heeded_without_gradients() -> None:
    torch.manual_seed(0)
    mlp = MLP(32)
    attention = WindowAttention(32, 1, (2, 2, 2), (1, 1, 1), sliced_bias=False, attention=box_attention)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        assert mlp(torch.randn(4, 32)).dtype == torch.bfloat16
        assert attention(torch.randn(1, 4, 4, 4, 32)).dtype == torch.bfloat16


def test_a_layer_of_another_class_is_called() -> None:
    class Doubled(nn.Linear):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return 2 * super().forward(x)

    mlp = MLP(16)
    other = copy.deepcopy(mlp)
    other.fc2.__class__ = Doubled
    x = torch.randn(4, 16)
    with torch.no_grad():
        torch.testing.assert_close(other(x), 2 * mlp(x))


def test_hooks_of_layers_are_called() -> None:
    model, calls = VideoSwin(NANO).eval(), []
    for name, module in model.named_modules():
        if name.endswith(("qkv", "fc1")):
            module.register_forward_hook(lambda *_, name=name: calls.append(name))
    with torch.no_grad():
        model(torch.randn(1, 3, 8, 64, 64))
    assert {name.rpartition(".")[2] for name in calls} == {"qkv", "fc1"}


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


def test_counted_operations_are_the_same_with_and_without_gradients() -> None:
    model, clips = VideoSwin(NANO), torch.randn(1, 3, 8, 64, 64)
    counts = []
    for recorded in (True, False):
        with torch.set_grad_enabled(recorded), FlopCounterMode(display=False) as counter:
            model(clips)
        counts.append(counter.get_total_flops())
    assert counts[0] == counts[1]
