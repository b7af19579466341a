"""Kernels that are incorrect or do not run are detected."""

import subprocess

import pytest
import torch
from torch import Tensor

from videoswin.acceleration.triton.attention import triton_attention
from videoswin.acceleration.verify import TOLERANCE, attention_fault, largest_error
from videoswin.model.attention import box_attention
from videoswin.model.windows import WindowGeometry

CPU = torch.device("cpu")


def test_the_check_accepts_a_right_attention_even_while_predicting() -> None:
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        assert largest_error(triton_attention, CPU, 16) < TOLERANCE[torch.bfloat16]


def test_the_check_keeps_the_random_state() -> None:
    before = torch.get_rng_state()
    largest_error(box_attention, CPU, 16)
    assert torch.equal(torch.get_rng_state(), before)


def other_bias(qkv: Tensor, bias_table: Tensor, geometry: WindowGeometry) -> Tensor:
    return box_attention(qkv, bias_table.flip(0), geometry)


def no_number(qkv: Tensor, bias_table: Tensor, geometry: WindowGeometry) -> Tensor:
    return box_attention(qkv, bias_table, geometry) * float("nan")


def wrong_gradient(qkv: Tensor, bias_table: Tensor, geometry: WindowGeometry) -> Tensor:
    return box_attention(qkv, 0.9 * bias_table + 0.1 * bias_table.detach(), geometry)


@pytest.mark.parametrize("attention", [other_bias, no_number, wrong_gradient])
def test_the_check_finds_a_wrong_attention(attention) -> None:
    pytest.importorskip("triton")
    assert "off by" in attention_fault(attention, CPU, 16)


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
    pytest.importorskip("triton")

    def failing(qkv: Tensor, bias_table: Tensor, geometry: WindowGeometry) -> Tensor:
        raise failure

    assert type(failure).__name__ in attention_fault(failing, CPU, 16)


def test_an_error_of_triton_is_a_reason_and_a_mistake_of_ours_is_not() -> None:
    compiler_errors = pytest.importorskip("triton.errors")

    def failing(qkv: Tensor, bias_table: Tensor, geometry: WindowGeometry) -> Tensor:
        raise compiler_errors.TritonError("out of resource")

    def mistaken(qkv: Tensor, bias_table: Tensor, geometry: WindowGeometry) -> Tensor:
        raise TypeError("ours")

    assert attention_fault(failing, CPU, 16) == "TritonError: out of resource"
    with pytest.raises(TypeError):
        attention_fault(mistaken, CPU, 16)
