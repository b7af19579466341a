"""Kernels that are incorrect or do not run are detected; compiled blocks keep names."""

import subprocess
from functools import partial

import pytest
import torch
from torch import Tensor

from videoswin.acceleration import cuda, fused
from videoswin.acceleration.cuda import (
    TOLERANCE,
    CapturedModel,
    compile_blocks,
    measured_fault,
    trial_attention_error,
    trial_block,
    trial_tokens,
)
from videoswin.acceleration.triton.attention import triton_attention
from videoswin.inference.predictor import Predictor
from videoswin.model.attention import box_attention
from videoswin.model.config import VideoSwinConfig
from videoswin.model.swin import VideoSwin
from videoswin.model.windows import WindowGeometry
from videoswin.video.spec import ClipSpec, ViewPlan
from videoswin.weights.checkpoint import Checkpoint

CPU = torch.device("cpu")
WINDOW = (2, 3, 3)
TINIEST = VideoSwinConfig(embed_dim=16, depths=(1,), num_heads=(1,), window=WINDOW, num_classes=3)


def fault(attention) -> str | None:
    pytest.importorskip("triton")
    dtype = torch.bfloat16
    return measured_fault(partial(trial_attention_error, attention, CPU, 16, WINDOW, dtype), TOLERANCE[dtype])


def test_the_check_accepts_a_right_attention_even_while_predicting() -> None:
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        assert fault(triton_attention) is None


def test_the_check_keeps_the_random_state() -> None:
    before = torch.get_rng_state()
    trial_attention_error(box_attention, CPU, 16, WINDOW, torch.float32)
    trial_block(16, 1, WINDOW, box_attention)
    assert torch.equal(torch.get_rng_state(), before)


def other_bias(qkv: Tensor, bias_table: Tensor, geometry: WindowGeometry) -> Tensor:
    return box_attention(qkv, bias_table.flip(0), geometry)


def no_number(qkv: Tensor, bias_table: Tensor, geometry: WindowGeometry) -> Tensor:
    return box_attention(qkv, bias_table, geometry) * float("nan")


def wrong_gradient(qkv: Tensor, bias_table: Tensor, geometry: WindowGeometry) -> Tensor:
    return box_attention(qkv, 0.9 * bias_table + 0.1 * bias_table.detach(), geometry)


@pytest.mark.parametrize("attention", [other_bias, no_number, wrong_gradient])
def test_the_check_finds_a_wrong_attention(attention) -> None:
    assert "off by" in fault(attention)


@pytest.mark.parametrize(
    "failure",
    [
        RuntimeError("Failed to find C compiler"),
        OSError("no ptxas"),
        AssertionError("libcuda.so cannot found!"),
        subprocess.CalledProcessError(1, "gcc"),
    ],
    ids=lambda failure: type(failure).__name__,
)
def test_a_machine_that_cannot_compile_is_a_reason(failure: Exception) -> None:
    def failing(qkv: Tensor, bias_table: Tensor, geometry: WindowGeometry) -> Tensor:
        raise failure

    assert type(failure).__name__ in fault(failing)


def test_an_error_of_triton_is_a_reason_and_a_mistake_of_ours_is_not() -> None:
    compiler_errors = pytest.importorskip("triton.errors")

    def failing(qkv: Tensor, bias_table: Tensor, geometry: WindowGeometry) -> Tensor:
        raise compiler_errors.TritonError("out of resource")

    def mistaken(qkv: Tensor, bias_table: Tensor, geometry: WindowGeometry) -> Tensor:
        raise TypeError("ours")

    assert fault(failing) == "TritonError: out of resource"
    with pytest.raises(TypeError):
        fault(mistaken)


@pytest.fixture
def fused_fault(monkeypatch: pytest.MonkeyPatch):
    pytest.importorskip("triton")
    return cuda._fused_fault.__wrapped__  # not cached


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_fused_branches_of_published_widths_are_right_in_half_precision(fused_fault, dtype) -> None:
    with torch.autocast("cpu", torch.bfloat16):  # nothing is fused under autocast, which the caller may use
        assert fused_fault(CPU, dtype, 96, 3, WINDOW) is None


@pytest.mark.parametrize(("branch", "operator"), [("attention", "linear_add"), ("mlp", "norm_mlp_add")])
def test_a_wrong_branch_is_found(
    fused_fault, monkeypatch: pytest.MonkeyPatch, branch: str, operator: str
) -> None:
    def adds_nothing(x: Tensor, *others: Tensor) -> Tensor:
        return others[-1] if operator == "linear_add" else x

    monkeypatch.setattr(fused, operator, adds_nothing)
    found = fused_fault(CPU, torch.bfloat16, 16, 1, WINDOW)
    assert found.startswith("results that are off by")
    assert found.endswith(f"({branch} of 16 channels)")


def test_a_trial_is_made_on_the_cpu_wherever_tensors_are_made_by_default() -> None:
    with torch.device("meta"):
        block = trial_block(16, 1, WINDOW, box_attention)
        assert trial_tokens(block).device == CPU
        assert {parameter.device for parameter in block.parameters()} == {CPU}


@pytest.mark.filterwarnings("ignore:The .grad attribute")
def test_a_predictor_answers_the_same_with_compiled_blocks_of_the_same_names() -> None:
    torch._dynamo.reset()
    checkpoint = Checkpoint(
        weights=VideoSwin(TINIEST).state_dict(),
        config=TINIEST,
        clip=ClipSpec(frames=4, size=24),
        views=ViewPlan(clips=1, crops=1),
        labels=("a", "b", "c"),
        name="tiniest",
    )
    predictor = Predictor(checkpoint, device="cpu")
    names = list(predictor.model.state_dict())
    views = torch.randint(256, (2, 3, 4, 24, 24), dtype=torch.uint8)
    expected = predictor.score(views)
    compile_blocks(predictor.model, backend="aot_eager")
    torch.testing.assert_close(predictor.score(views), expected)
    assert list(predictor.model.state_dict()) == names


def test_a_graph_of_a_cpu_is_refused() -> None:
    with pytest.raises(ValueError, match="must be on a CUDA device, got clips on cpu"):
        CapturedModel(VideoSwin(TINIEST).eval(), torch.randn(1, 3, 4, 24, 24))
