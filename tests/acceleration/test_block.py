"""Blocks for inference run their fast branches exactly where these give the results of the plain block."""

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from videoswin.acceleration.block import BRANCHES, Branch, InferenceBlock, replace_blocks
from videoswin.acceleration.cpu import CPUBlock
from videoswin.acceleration.fused import FusedBlock
from videoswin.acceleration.triton.attention import triton_attention
from videoswin.model.attention import box_attention
from videoswin.model.config import VideoSwinConfig
from videoswin.model.swin import Block, VideoSwin
from videoswin.training.lora import LowRankLinear

TINIEST = VideoSwinConfig(embed_dim=16, depths=(2, 2), num_heads=(1, 2), window=(2, 3, 3), num_classes=3)
WHOLE_WINDOWS, PADDED = (4, 12, 12), (3, 10, 7)
KINDS = {CPUBlock: box_attention, FusedBlock: triton_attention}
every_kind = pytest.mark.parametrize("kind", KINDS)


def block(kind: type[InferenceBlock] = CPUBlock, number: int = 1) -> Block:
    """Return a plain or shifted block with values as large as trained ones, and a drop path for training."""
    torch.manual_seed(0)
    model = VideoSwin(TINIEST, attention=KINDS[kind], drop_path=0.5).eval()
    chosen = model.stages[0].blocks[number]
    for parameter in chosen.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    return chosen


def tokens(grid: tuple[int, int, int] = WHOLE_WINDOWS) -> Tensor:
    return torch.randn(2, *grid, 16, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def fast(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the fast branches that are called."""
    called: list[str] = []

    def recording(branch: str, original):
        def call(self, x: Tensor) -> Tensor:
            called.append(branch)
            return original(self, x)

        return call

    for kind in KINDS:
        for branch in BRANCHES:
            monkeypatch.setattr(kind, f"fast_{branch}", recording(branch, getattr(kind, f"fast_{branch}")))
    return called


@every_kind
@pytest.mark.parametrize("number", [0, 1])
@pytest.mark.parametrize("grid", [WHOLE_WINDOWS, PADDED], ids=str)
def test_a_block_equals_the_plain_one(kind, number: int, grid, fast: list[str]) -> None:
    plain, x = block(kind, number), tokens(grid)
    with torch.no_grad():
        torch.testing.assert_close(kind(plain)(x), plain(x), rtol=1e-5, atol=1e-5)
    # Fused attention cannot pad, because padding is between the norm and the linear layer.
    assert fast == (["mlp"] if kind is FusedBlock and grid is PADDED else ["attention", "mlp"])


@pytest.mark.parametrize("branches", [BRANCHES, ("attention",), ("mlp",), ()], ids=str)
def test_chosen_branches_are_fused(branches: tuple[Branch, ...], fast: list[str]) -> None:
    with torch.inference_mode():
        FusedBlock(block(FusedBlock), branches)(tokens())
    assert tuple(fast) == branches


@every_kind
def test_gradients_are_those_of_the_plain_block(kind, fast: list[str]) -> None:
    plain, x = block(kind), tokens()
    ours = kind(copy.deepcopy(plain))
    for each in (plain, ours):
        each(x).square().sum().backward()
    assert fast == []
    for mine, expected in zip(ours.parameters(), plain.parameters(), strict=True):
        assert torch.equal(mine.grad, expected.grad)


@every_kind
def test_autocast_is_heeded(kind, fast: list[str]) -> None:
    plain, x = block(kind), tokens()
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(kind(plain)(x), plain(x))
    assert fast == []


@every_kind
def test_branches_that_are_dropped_in_training_are_dropped_without_gradients_too(kind) -> None:
    plain, x = block(kind).train(), tokens()
    assert plain.drop_path > 0
    with torch.no_grad():
        torch.manual_seed(0)
        expected = plain(x)
        torch.manual_seed(0)
        assert torch.equal(kind(plain)(x), expected)


@every_kind
def test_a_block_has_the_weights_names_and_mode_of_the_plain_one(kind) -> None:
    plain = block(kind)
    plain.mlp.train()  # its own, which making a block leaves alone
    ours = kind(plain)
    assert ours.mlp.training
    assert list(ours.state_dict()) == list(plain.state_dict())
    assert all(mine is theirs for mine, theirs in zip(ours.parameters(), plain.parameters(), strict=True))
    assert not ours.training
    assert kind(plain.train()).training


def test_tracing_sees_the_plain_branches_on_a_cpu(monkeypatch: pytest.MonkeyPatch, fast: list[str]) -> None:
    plain, x = block(), tokens()
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    with torch.no_grad():
        assert torch.equal(CPUBlock(plain)(x), plain(x))
    assert fast == []


def low_rank(block: Block) -> None:
    block.attn.qkv = LowRankLinear(block.attn.qkv, rank=2)
    torch.nn.init.normal_(block.attn.qkv.up)  # as learned; it begins with zeros


def doubling_hook(layer: torch.nn.Module) -> None:
    layer.register_forward_hook(lambda layer, given, out: 2 * out)


CHANGES: dict[str, Callable[[Block], object]] = {
    "low rank": low_rank,
    "other attention": lambda block: setattr(block, "attn", torch.nn.Tanh()),
    "no bias": lambda block: setattr(block.attn, "proj", torch.nn.Linear(16, 16, bias=False)),
    "hook of proj": lambda block: doubling_hook(block.attn.proj),
    "hook of attention": lambda block: block.attn.register_forward_pre_hook(
        lambda layer, given: (2 * given[0],)
    ),
    "hook of norm1": lambda block: doubling_hook(block.norm1),
    "norm1 without weights": lambda block: setattr(
        block, "norm1", torch.nn.LayerNorm(16, elementwise_affine=False)
    ),
    "other mlp": lambda block: setattr(block, "mlp", torch.nn.Tanh()),
    "fc1 without bias": lambda block: setattr(block.mlp, "fc1", torch.nn.Linear(16, 64, bias=False)),
    "hook of mlp": lambda block: doubling_hook(block.mlp),
    "hook of fc2": lambda block: doubling_hook(block.mlp.fc2),
    "norm2 without weights": lambda block: setattr(
        block, "norm2", torch.nn.LayerNorm(16, elementwise_affine=False)
    ),
}


@every_kind
@pytest.mark.parametrize("change", CHANGES)
def test_a_changed_layer_is_called(kind, change: str) -> None:
    changed, x = block(kind), tokens()
    with torch.no_grad():
        before = changed(x)
        CHANGES[change](changed)
        expected = changed(x)
        assert not torch.equal(before, expected)
        torch.testing.assert_close(kind(changed)(x), expected, rtol=1e-5, atol=1e-5)


def test_blocks_of_other_kinds_stay_where_they_are() -> None:
    class Other(Block):
        pass

    stage = VideoSwin(TINIEST).stages[0]
    stage.blocks[0].__class__ = Other
    stage.blocks[1].register_forward_hook(lambda block, given, out: 2 * out)
    before = list(stage.blocks)
    replace_blocks(stage, FusedBlock)
    assert list(stage.blocks) == before


def test_replacing_again_leaves_the_last_kind() -> None:
    stage = VideoSwin(TINIEST).stages[0]
    for kind in (FusedBlock, CPUBlock):
        replace_blocks(stage, kind)
    assert {type(block) for block in stage.blocks} == {CPUBlock}
