"""Selection of kernels for a device, and reasons against them."""

import logging
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from tests.test_architecture import loaded_by
from videoswin.acceleration import cuda, fused
from videoswin.acceleration.cuda import (
    faster_branches,
    fastest_attention,
    trial_block,
    trial_tokens,
    use_fastest_blocks,
)
from videoswin.model.attention import box_attention
from videoswin.model.config import VideoSwinConfig
from videoswin.model.swin import Block, VideoSwin

CPU = torch.device("cpu")
WINDOW = (2, 3, 3)


def test_a_cpu_gets_boxes_and_the_log_says_why(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="videoswin"):
        assert fastest_attention("cpu") is box_attention
    assert [record.getMessage() for record in caplog.records] == [
        "using box_attention, because the kernels need CUDA and the device is cpu"
    ]


@pytest.mark.parametrize("capabilities", [{}, {"avx2": True}, {"bf16": True}], ids=str)
def test_emulated_half_precision_gets_one_warning(
    capabilities: dict[str, bool], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities)
    monkeypatch.setattr(cuda, "emulation_slowdown", lambda dtype: 9.24)
    for dtype in (torch.bfloat16, torch.float16, torch.float32):
        cuda.warn_if_emulated("cpu", dtype)
        cuda.warn_if_emulated("cuda", dtype)
    assert [record.getMessage() for record in caplog.records] == [
        f"this CPU has no instructions for {name}, which takes about 9 times as long as float32 "
        "(measured on one layer): use float32"
        for name in ("bfloat16", "float16")
    ]


def test_half_precision_that_is_not_slower_needs_no_word(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(cuda, "emulation_slowdown", lambda dtype: 0.5)
    cuda.warn_if_emulated("cpu", torch.bfloat16)
    capabilities = {"amx_bf16": True, "avx512_fp16": True}
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities)
    monkeypatch.setattr(cuda, "emulation_slowdown", lambda dtype: 2.0)
    cuda.warn_if_emulated("cpu", torch.bfloat16)
    cuda.warn_if_emulated("cpu", torch.float16)
    assert caplog.records == []


def test_slowdown_is_measured() -> None:
    assert cuda.emulation_slowdown(torch.bfloat16) > 0


def test_choosing_and_tracing_need_no_triton() -> None:
    hidden = "import sys; sys.modules['triton'] = None"
    choice = "from videoswin.acceleration.cuda import fastest_attention; fastest_attention('cpu')"
    operators = "import videoswin.acceleration.triton.attention, videoswin.acceleration.fused"
    assert "videoswin" in loaded_by(f"{hidden}; {choice}; {operators}")


@pytest.fixture
def few_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("triton")
    monkeypatch.setattr("videoswin.acceleration.cuda.TOKENS", 600)


class Clock:
    """Says how long each branch took, plain and fused, three times in turn."""

    def __init__(self, *pairs: tuple[float, float]) -> None:
        self.left = [took for pair in pairs for took in 3 * pair]

    def __call__(self, call: Callable[[], object]) -> float:
        assert call().isfinite().all()
        return self.left.pop(0)


@pytest.mark.parametrize(
    ("milliseconds", "branches"),
    [
        ([(2.0, 1.0), (2.0, 1.0)], ("attention", "mlp")),
        ([(1.0, 2.0), (2.0, 1.0)], ("mlp",)),
        ([(2.0, 1.0), (1.0, 1.0)], ("attention",)),
        ([(2.0, 1.0), (1.0, 0.98)], ("attention",)),
        ([(1.0, 2.0), (1.0, 2.0)], ()),
    ],
)
def test_a_branch_is_fused_where_that_clearly_takes_less_time(few_tokens, milliseconds, branches) -> None:
    block = trial_block(16, 1, WINDOW, box_attention)
    with torch.autocast("cpu", torch.bfloat16):  # whoever asks may be casting, and then nothing is fused
        assert faster_branches(block, Clock(*milliseconds)) == branches


@pytest.mark.parametrize(("branch", "operator"), [("attention", "linear_add"), ("mlp", "norm_mlp_add")])
def test_a_wrong_branch_is_not_fused_and_the_log_says_so(
    few_tokens, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, branch: str, operator: str
) -> None:
    def adds_nothing(x: Tensor, *others: Tensor) -> Tensor:
        return others[-1] if operator == "linear_add" else x

    monkeypatch.setattr(fused, operator, adds_nothing)
    block = trial_block(16, 1, WINDOW, box_attention)
    (other,) = faster_branches(block, Clock((2.0, 1.0)))
    assert other != branch
    (message,) = (record.getMessage() for record in caplog.records)
    assert message.startswith(f"{branch} of 16 channels is not fused on cpu: its results are off by")


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_branches_of_published_widths_are_right_in_half_precision(few_tokens, dtype: torch.dtype) -> None:
    block = trial_block(96, 3, WINDOW, box_attention).to(dtype)
    assert faster_branches(block, Clock((2.0, 1.0), (2.0, 1.0))) == ("attention", "mlp")


def test_a_trial_keeps_the_random_state() -> None:
    before = torch.get_rng_state()
    trial_block(16, 1, WINDOW, box_attention)
    assert torch.equal(torch.get_rng_state(), before)


def test_a_trial_is_made_on_the_cpu_wherever_tensors_are_made_by_default(few_tokens) -> None:
    with torch.device("meta"):
        block = trial_block(16, 1, WINDOW, box_attention)
        assert trial_tokens(block).device == CPU
        assert {parameter.device for parameter in block.parameters()} == {CPU}


def small_model() -> VideoSwin:
    return VideoSwin(VideoSwinConfig(embed_dim=192, depths=(2, 1), num_heads=(6, 12), num_classes=2)).eval()


def test_a_cpu_keeps_its_blocks() -> None:
    model = small_model()
    use_fastest_blocks(model, "cpu", torch.bfloat16)
    assert not any(isinstance(module, fused.FusedBlock) for module in model.modules())


@pytest.fixture
def as_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda, "fastest_attention", lambda *_: box_attention)
    monkeypatch.setattr(cuda, "_triton_fault", lambda _: None)


def test_a_gpu_that_is_full_keeps_its_blocks(
    as_on_a_gpu, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(cuda, "_faster_branches", full)
    model = small_model()
    use_fastest_blocks(model, "cuda:0", torch.bfloat16)
    assert not any(isinstance(module, fused.FusedBlock) for module in model.modules())
    assert "stage of 192 channels is not fused: out of memory" in caplog.text


def test_deterministic_mode_selects_no_implementation_by_time(
    as_on_a_gpu, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cuda, "_faster_branches", lambda *_: ("mlp",))
    monkeypatch.setattr(torch, "are_deterministic_algorithms_enabled", lambda: True)
    model = small_model()
    use_fastest_blocks(model, "cuda:0", torch.bfloat16)
    assert not any(isinstance(module, fused.FusedBlock) for module in model.modules())


def test_a_gpu_gets_what_pays_in_stages_with_few_channels(
    as_on_a_gpu, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cuda, "_faster_branches", lambda *_: ("mlp",))
    model = small_model()
    names = list(model.state_dict())
    use_fastest_blocks(model, "cuda:0", torch.bfloat16)
    assert [type(block) for block in model.stages[0].blocks] == [fused.FusedBlock] * 2
    assert [block.branches for block in model.stages[0].blocks] == [("mlp",)] * 2
    assert [type(block) for block in model.stages[1].blocks] == [Block]
    assert list(model.state_dict()) == names
