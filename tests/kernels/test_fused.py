"""Fused blocks and their operators as torch sees them, without a GPU and without Triton."""

import copy

import pytest
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from videoswin.kernels.compiled import compile_blocks
from videoswin.kernels.fused import HALVES, FusedBlock, Half, linear, mlp
from videoswin.kernels.window_attention import triton_attention
from videoswin.model.config import VideoSwinConfig
from videoswin.model.swin import Block, VideoSwin

TINIEST = VideoSwinConfig(embed_dim=16, depths=(2, 2), num_heads=(1, 2), window=(2, 3, 3), num_classes=3)
WHOLE_WINDOWS, PADDED = (4, 12, 12), (3, 10, 7)


def block(number: int = 1) -> Block:
    """Plain (0) or shifted (1), with numbers as large as trained ones, and a drop path for training only."""
    torch.manual_seed(0)
    model = VideoSwin(TINIEST, attention=triton_attention, drop_path=0.5).eval()
    chosen = model.stages[0].blocks[number]
    for parameter in chosen.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    return chosen


def tokens(grid: tuple[int, int, int]) -> Tensor:
    return torch.randn(2, *grid, 16, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the operators that are called."""
    called: list[str] = []
    for operator in (linear, mlp):
        name = operator._name

        def spy(*arguments, operator=operator, name=name):
            called.append(name)
            return operator(*arguments)

        monkeypatch.setattr(f"videoswin.kernels.fused.{name}", spy)
    return called


@pytest.mark.parametrize("number", [0, 1])
@pytest.mark.parametrize("halves", [HALVES, ("attention",), ("mlp",), ()], ids=str)
@pytest.mark.parametrize("grid", [WHOLE_WINDOWS, PADDED], ids=str)
def test_a_fused_block_equals_the_plain_one(number: int, halves: tuple[Half, ...], grid) -> None:
    plain, x = block(number), tokens(grid)
    with torch.no_grad():
        torch.testing.assert_close(FusedBlock(plain, halves)(x), plain(x), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("grid", "halves", "expected"),
    [
        (WHOLE_WINDOWS, HALVES, ["linear", "linear", "mlp"]),
        (WHOLE_WINDOWS, ("attention",), ["linear", "linear"]),
        (WHOLE_WINDOWS, ("mlp",), ["mlp"]),
        (PADDED, HALVES, ["mlp"]),
    ],
    ids=str,
)
def test_what_fits_is_fused(calls: list[str], grid, halves: tuple[Half, ...], expected: list[str]) -> None:
    with torch.inference_mode():
        FusedBlock(block(), halves)(tokens(grid))
    assert calls == expected


def test_a_block_that_learns_is_not_fused_and_learns_the_same(calls: list[str]) -> None:
    plain, x = block(), tokens(WHOLE_WINDOWS)
    fused = FusedBlock(copy.deepcopy(plain))
    for each in (plain, fused):
        each(x).square().sum().backward()
    assert calls == []
    for mine, expected in zip(fused.parameters(), plain.parameters(), strict=True):
        assert torch.equal(mine.grad, expected.grad)


def test_under_autocast_nothing_is_fused(calls: list[str]) -> None:
    plain, x = block(), tokens(WHOLE_WINDOWS)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(FusedBlock(plain)(x), plain(x))
    assert calls == []


def test_a_fused_block_has_the_weights_names_and_mode_of_the_plain_one() -> None:
    plain = block()
    fused = FusedBlock(plain)
    assert list(fused.state_dict()) == list(plain.state_dict())
    assert all(mine is theirs for mine, theirs in zip(fused.parameters(), plain.parameters(), strict=True))
    assert not fused.training
    assert FusedBlock(plain.train()).training


def weights(dtype: torch.dtype = torch.float32) -> list[Tensor]:
    """x, norm, fc1, fc2."""
    shapes = [(6, 16), (16,), (16,), (64, 16), (64,), (16, 64), (16,)]
    generator = torch.Generator().manual_seed(2)
    return [torch.randn(shape, generator=generator).to(dtype) for shape in shapes]


def test_torch_finds_nothing_wrong_with_the_operators() -> None:
    x, scale, offset, weight1, bias1, weight2, bias2 = weights()
    torch.library.opcheck(linear, (x, weight1, bias1, scale, offset, 1e-5, None))
    torch.library.opcheck(linear, (x, weight1[:16], bias1[:16], None, None, 0.0, x))
    torch.library.opcheck(mlp, (x, scale, offset, 1e-5, weight1, bias1, weight2, bias2))


def test_products_are_counted() -> None:
    x, scale, offset, weight1, bias1, weight2, bias2 = weights()
    with FlopCounterMode(display=False) as one:
        linear(x, weight1, bias1, scale, offset, 1e-5, None)
    assert one.get_total_flops() == 2 * 6 * 16 * 64
    with FlopCounterMode(display=False) as two:
        mlp(x, scale, offset, 1e-5, weight1, bias1, weight2, bias2)
    assert two.get_total_flops() == 2 * 2 * 6 * 16 * 64


def test_fused_blocks_compile_without_a_break() -> None:
    torch.manual_seed(0)
    model = VideoSwin(TINIEST, attention=triton_attention).eval()
    clips = torch.randn(1, 3, 8, 48, 48)
    with torch.no_grad():
        expected = model(clips)
        for stage in model.stages:
            for number, each in enumerate(stage.blocks):
                stage.blocks[number] = FusedBlock(each)
        torch.testing.assert_close(compile_blocks(model, backend="aot_eager")(clips), expected)
