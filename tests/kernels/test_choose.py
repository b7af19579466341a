"""The kernels that a device gets, and what makes them ineligible."""

import copy
import logging

import pytest
import torch

from tests.test_architecture import loaded_by
from videoswin.kernels import fused
from videoswin.kernels.choose import WIDEST, fastest_attention, halves_that_pay, use_fastest_blocks
from videoswin.model.attention import box_attention
from videoswin.model.config import VideoSwinConfig
from videoswin.model.swin import Block, VideoSwin

CPU = torch.device("cpu")
WINDOW = (2, 3, 3)


def test_a_cpu_gets_boxes_and_the_log_says_why(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="videoswin"):
        assert fastest_attention("cpu") is box_attention
    assert [record.getMessage() for record in caplog.records] == [
        "box_attention: the kernels are for CUDA, and this is cpu"
    ]


def test_choosing_and_tracing_need_no_triton() -> None:
    hidden = "import sys; sys.modules['triton'] = None"
    choice = "from videoswin.kernels.choose import fastest_attention; fastest_attention('cpu')"
    assert "videoswin" in loaded_by(f"{hidden}; {choice}; import videoswin.kernels.window_attention")


@pytest.fixture
def few_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("triton")
    monkeypatch.setattr("videoswin.kernels.choose.TOKENS", 600)


def block(channels: int = 16) -> Block:
    torch.manual_seed(0)
    config = VideoSwinConfig(embed_dim=channels, depths=(1,), num_heads=(1,), window=WINDOW, num_classes=2)
    only = VideoSwin(config).eval().stages[0].blocks[0]
    assert isinstance(only, Block)
    return only


class Clock:
    """Says of calls, in turn, that they took so long."""

    def __init__(self, *milliseconds: float) -> None:
        self.left = list(milliseconds)

    def __call__(self, call) -> float:
        assert call().isfinite().all()
        return self.left.pop(0)


@pytest.mark.parametrize(
    ("milliseconds", "halves"),
    [
        ((2.0, 1.0, 2.0, 1.0), ("attention", "mlp")),
        ((1.0, 2.0, 2.0, 1.0), ("mlp",)),
        ((2.0, 1.0, 1.0, 1.0), ("attention",)),
        ((1.0, 2.0, 1.0, 2.0), ()),
    ],
)
def test_a_half_is_fused_where_that_takes_less_time(few_tokens, milliseconds, halves) -> None:
    assert halves_that_pay(block(), CPU, torch.float32, Clock(*milliseconds)) == halves


def test_a_wrong_half_is_not_fused_and_the_log_says_so(
    few_tokens, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(fused, "mlp", lambda x, *weights: x)
    assert halves_that_pay(block(), CPU, torch.float32, Clock(2.0, 1.0)) == ("attention",)
    (message,) = (record.getMessage() for record in caplog.records)
    assert message.startswith("mlp of 16 channels is not fused on cpu: its results are off by")


@pytest.mark.parametrize("channels", [24, 2 * WIDEST])
def test_channels_without_tiles_are_not_tried(few_tokens, channels: int) -> None:
    assert halves_that_pay(block(channels), CPU, torch.float32, Clock()) == ()


def test_a_cpu_keeps_its_blocks() -> None:
    model = VideoSwin(VideoSwinConfig(embed_dim=16, depths=(2, 2), num_heads=(1, 2), num_classes=2))
    before = copy.deepcopy(model)
    use_fastest_blocks(model, "cpu", torch.bfloat16)
    assert [type(module) for module in model.modules()] == [type(module) for module in before.modules()]
