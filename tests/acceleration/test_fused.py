"""Fused blocks and their operators without a GPU and without Triton."""

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from videoswin.acceleration.cuda import compile_blocks
from videoswin.acceleration.fused import (
    BRANCHES,
    Branch,
    FusedBlock,
    can_fuse,
    fuse,
    linear_add,
    norm_linear,
    norm_mlp_add,
)
from videoswin.acceleration.triton.attention import triton_attention
from videoswin.model.config import VideoSwinConfig
from videoswin.model.swin import Block, VideoSwin
from videoswin.training.lora import LowRankLinear

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
    for operator in (norm_linear, linear_add, norm_mlp_add):
        name = operator._name

        def spy(*arguments, operator=operator, name=name):
            called.append(name)
            return operator(*arguments)

        monkeypatch.setattr(f"videoswin.acceleration.fused.{name}", spy)
    return called


@pytest.mark.parametrize("number", [0, 1])
@pytest.mark.parametrize("branches", [BRANCHES, ("attention",), ("mlp",), ()], ids=str)
@pytest.mark.parametrize("grid", [WHOLE_WINDOWS, PADDED], ids=str)
def test_a_fused_block_equals_the_plain_one(number: int, branches: tuple[Branch, ...], grid) -> None:
    plain, x = block(number), tokens(grid)
    with torch.no_grad():
        torch.testing.assert_close(FusedBlock(plain, branches)(x), plain(x), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("grid", "branches", "expected"),
    [
        (WHOLE_WINDOWS, BRANCHES, ["norm_linear", "linear_add", "norm_mlp_add"]),
        (WHOLE_WINDOWS, ("attention",), ["norm_linear", "linear_add"]),
        (WHOLE_WINDOWS, ("mlp",), ["norm_mlp_add"]),
        (PADDED, BRANCHES, ["norm_mlp_add"]),
    ],
    ids=str,
)
def test_what_fits_is_fused(
    calls: list[str], grid, branches: tuple[Branch, ...], expected: list[str]
) -> None:
    with torch.inference_mode():
        FusedBlock(block(), branches)(tokens(grid))
    assert calls == expected


def test_a_block_in_training_is_not_fused_and_has_the_same_gradients(calls: list[str]) -> None:
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
    plain.mlp.train()  # its own, which making a fused block leaves alone
    fused = FusedBlock(plain)
    assert fused.mlp.training
    assert list(fused.state_dict()) == list(plain.state_dict())
    assert all(mine is theirs for mine, theirs in zip(fused.parameters(), plain.parameters(), strict=True))
    assert not fused.training
    assert FusedBlock(plain.train()).training


def weights(dtype: torch.dtype = torch.float32) -> list[Tensor]:
    """x, norm, fc1, fc2."""
    shapes = [(6, 16), (16,), (16,), (64, 16), (64,), (16, 64), (16,)]
    generator = torch.Generator().manual_seed(2)
    return [torch.randn(shape, generator=generator).to(dtype) for shape in shapes]


def test_torch_opcheck_accepts_the_operators() -> None:
    x, scale, offset, weight1, bias1, weight2, bias2 = weights()
    torch.library.opcheck(norm_linear, (x, scale, offset, 1e-5, weight1, bias1))
    torch.library.opcheck(linear_add, (x, weight1[:16], bias1[:16], x))
    torch.library.opcheck(norm_mlp_add, (x, scale, offset, 1e-5, weight1, bias1, weight2, bias2))


def test_products_are_counted() -> None:
    x, scale, offset, weight1, bias1, weight2, bias2 = weights()
    with FlopCounterMode(display=False) as counter:
        norm_linear(x, scale, offset, 1e-5, weight1, bias1)
        assert counter.get_total_flops() == 2 * 6 * 16 * 64
        linear_add(x, weight1[:16], bias1[:16], x)
        assert counter.get_total_flops() == 2 * 6 * 16 * (64 + 16)
        norm_mlp_add(x, scale, offset, 1e-5, weight1, bias1, weight2, bias2)
        assert counter.get_total_flops() == 2 * 6 * 16 * (64 + 16 + 2 * 64)


def test_fused_blocks_compile_without_a_break() -> None:
    torch.manual_seed(0)
    model = VideoSwin(TINIEST, attention=triton_attention).eval()
    clips = torch.randn(1, 3, 8, 48, 48)
    with torch.no_grad():
        expected = model(clips)
        for stage in model.stages:
            fuse(stage)
        torch.testing.assert_close(compile_blocks(model, backend="aot_eager")(clips), expected)


def low_rank(block: Block) -> None:
    block.attn.qkv = LowRankLinear(block.attn.qkv, rank=2)
    torch.nn.init.normal_(block.attn.qkv.up)  # as learned; it begins with zeros


@pytest.mark.parametrize(
    "change",
    [
        low_rank,
        lambda block: setattr(block, "attn", torch.nn.Tanh()),
        lambda block: setattr(block.attn, "proj", torch.nn.Linear(16, 16, bias=False)),
        lambda block: block.attn.proj.register_forward_hook(lambda layer, given, out: 2 * out),
        lambda block: block.attn.register_forward_pre_hook(lambda layer, given: (2 * given[0],)),
        lambda block: block.norm1.register_forward_hook(lambda layer, given, out: 2 * out),
        lambda block: setattr(block, "norm1", torch.nn.LayerNorm(16, elementwise_affine=False)),
        lambda block: setattr(block, "mlp", torch.nn.Tanh()),
        lambda block: setattr(block.mlp, "fc1", torch.nn.Linear(16, 64, bias=False)),
        lambda block: block.mlp.register_forward_hook(lambda layer, given, out: 2 * out),
        lambda block: block.mlp.fc2.register_forward_hook(lambda layer, given, out: 2 * out),
        lambda block: setattr(block, "norm2", torch.nn.LayerNorm(16, elementwise_affine=False)),
    ],
    ids=[
        *("low rank", "other attention", "no bias", "hook of proj", "hook of attention", "hook of norm1"),
        *("norm1 without weights", "other mlp", "fc1 without bias", "hook of mlp", "hook of fc2"),
        "norm2 without weights",
    ],
)
def test_a_layer_that_was_changed_is_not_fused_away(change: Callable[[Block], object]) -> None:
    changed, x = block(), tokens(WHOLE_WINDOWS)
    with torch.no_grad():
        before = changed(x)
        change(changed)
        expected = changed(x)
        assert not torch.equal(before, expected)
        torch.testing.assert_close(FusedBlock(changed)(x), expected, rtol=1e-5, atol=1e-5)


def test_branches_that_are_dropped_in_training_are_dropped_without_gradients_too() -> None:
    plain, x = block().train(), tokens(WHOLE_WINDOWS)
    assert plain.drop_path > 0
    with torch.no_grad():
        torch.manual_seed(0)
        expected = plain(x)
        torch.manual_seed(0)
        assert torch.equal(FusedBlock(plain)(x), expected)


def test_blocks_of_other_kinds_stay_where_they_are() -> None:
    class Other(Block):
        pass

    model = VideoSwin(TINIEST)
    stage = model.stages[0]
    stage.blocks[0].__class__ = Other
    stage.blocks[1].register_forward_hook(lambda block, given, out: 2 * out)
    before = list(stage.blocks)
    fuse(stage)
    assert list(stage.blocks) == before


def test_fusing_again_leaves_the_last_choice() -> None:
    stage = VideoSwin(TINIEST).stages[0]
    fuse(stage)
    fuse(stage, ())
    assert [each.branches for each in stage.blocks] == [(), ()]


@pytest.mark.parametrize(("channels", "fits"), [(16, True), (24, False), (256, True), (512, False)])
def test_blocks_of_few_channels_can_be_fused(channels: int, fits: bool) -> None:
    with torch.device("meta"):
        config = TINIEST.replace(embed_dim=channels, depths=(1,), num_heads=(1,))
        assert can_fuse(VideoSwin(config).stages[0].blocks[0]) is fits
