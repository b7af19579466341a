"""Fused linear layers, run by Triton's interpreter, against torch in float64.

Not in bfloat16, which the interpreter multiplies as if it were whole numbers; test_kernels_on_a_gpu.py does.
"""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tests.acceleration.problems import error

pytest.importorskip("triton")
pytestmark = pytest.mark.skipif(
    torch.cuda.is_available(), reason="for the interpreter; test_kernels_on_a_gpu.py runs here"
)

from videoswin.acceleration.triton.linear import channel_parts, linear_add, norm_linear, norm_mlp_add  # noqa: E402
from videoswin.acceleration.triton.tiles import Tiles  # noqa: E402

EPS = 1e-5
CHANNELS = [16, 48, 96]
by_dtype = pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-6), (torch.float16, 2e-3)])


def numbers(*shape: int, seed: int, spread: float = 1.0, mean: float = 0.0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return mean + spread * torch.randn(*shape, generator=generator, dtype=torch.float64)


def tokens(rows: int, channels: int) -> Tensor:
    """As inside a trained model: far from mean 0 and variance 1, and one channel larger than all others."""
    x = numbers(rows, channels, seed=0, spread=3.0, mean=1.0)
    x[:, channels // 2] *= 20
    return x


def norm(channels: int) -> tuple[Tensor, Tensor]:
    return numbers(channels, seed=1, spread=0.2, mean=1.0), numbers(channels, seed=2)


def layer(channels: int, out: int, seed: int) -> tuple[Tensor, Tensor]:
    return numbers(out, channels, seed=seed, spread=channels**-0.5), numbers(out, seed=seed + 1)


def in_dtype(dtype: torch.dtype, *tensors: Tensor) -> list[Tensor]:
    return [each.to(dtype) for each in tensors]


@by_dtype
@pytest.mark.parametrize("channels", CHANNELS)
def test_norm_and_layer_equal_torch(channels: int, dtype: torch.dtype, tolerance: float) -> None:
    x, (scale, offset), (weight, bias) = tokens(40, channels), norm(channels), layer(channels, 100, seed=3)
    expected = F.linear(F.layer_norm(x, (channels,), scale, offset, EPS), weight, bias)
    x, scale, offset, weight, bias = in_dtype(dtype, x, scale, offset, weight, bias)
    out = norm_linear(x, scale, offset, EPS, weight, bias)
    assert out.dtype == dtype
    assert error(out, expected) < tolerance


@by_dtype
@pytest.mark.parametrize("channels", CHANNELS)
def test_layer_and_addition_equal_torch(channels: int, dtype: torch.dtype, tolerance: float) -> None:
    x, (weight, bias), residual = tokens(40, channels), layer(channels, 100, seed=3), numbers(40, 100, seed=5)
    out = linear_add(*in_dtype(dtype, x, weight, bias, residual))
    assert out.dtype == dtype
    assert error(out, residual + F.linear(x, weight, bias)) < tolerance


def mlp_of(
    x: Tensor, dtype: torch.dtype, tiles: Tiles | None = None, hidden: int = 4
) -> tuple[Tensor, Tensor]:
    """Ours, and torch's in float64."""
    channels = x.shape[1]
    scale, offset = norm(channels)
    fc1, fc2 = layer(channels, hidden * channels, seed=3), layer(hidden * channels, channels, seed=7)
    inside = F.gelu(F.linear(F.layer_norm(x, (channels,), scale, offset, EPS), *fc1))
    expected = x + F.linear(inside, *fc2)
    scale, offset, *weights = in_dtype(dtype, scale, offset, *fc1, *fc2)
    return norm_mlp_add(x.to(dtype), scale, offset, EPS, *weights, tiles), expected


@by_dtype
@pytest.mark.parametrize("channels", CHANNELS)
def test_an_mlp_equals_torch(channels: int, dtype: torch.dtype, tolerance: float) -> None:
    out, expected = mlp_of(tokens(40, channels), dtype)
    assert out.dtype == dtype
    assert error(out, expected) < tolerance


@pytest.mark.parametrize(
    "tiles",
    [
        Tiles(rows=16, columns=16, warps=4, stages=1),
        Tiles(rows=128, columns=128, warps=8, stages=2),
    ],
    ids=str,
)
def test_the_answer_does_not_depend_on_the_tiles(tiles: Tiles) -> None:
    out, expected = mlp_of(tokens(70, 48), torch.float32, tiles)  # 192 hidden: a tile and a half of 128
    assert error(out, expected) < 1e-6
    x, (weight, bias), residual = tokens(70, 48), layer(48, 144, seed=3), numbers(70, 144, seed=5)
    whole = linear_add(*in_dtype(torch.float32, x, weight, bias, residual), tiles)
    assert error(whole, residual + F.linear(x, weight, bias)) < 1e-6


@given(rows=st.integers(1, 70), channels=st.sampled_from([16, 32, 48, 80, 96, 128]))
@settings(max_examples=6)
def test_any_number_of_tokens_and_fitting_channels_equals_torch(rows: int, channels: int) -> None:
    out, expected = mlp_of(tokens(rows, channels), torch.float32, hidden=1)
    assert error(out, expected) < 1e-6


def test_channels_are_one_or_two_powers_of_two_or_refused() -> None:
    powers = [16 << shift for shift in range(8)]
    fitting = {one + other for one in powers for other in (0, *powers) if one + other < 2048}
    for channels in range(1, 2048):
        if channels in fitting:
            main, rest = channel_parts(channels)
            assert main + rest == channels
            assert all(part == 0 or (part >= 16 and part.bit_count() == 1) for part in (main, rest))
        else:
            with pytest.raises(ValueError, match=f"channels must be .* got {channels}$"):
                channel_parts(channels)


def test_published_models_have_fitting_channels() -> None:
    for first in (96, 128, 192):  # T and S, B, L
        assert all(sum(channel_parts(first << stage)) == first << stage for stage in range(4))
