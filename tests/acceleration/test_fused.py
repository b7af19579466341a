"""Operators of fused blocks without a GPU and without Triton; test_linear.py has their kernels."""

import pytest
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from videoswin.acceleration.block import replace_blocks
from videoswin.acceleration.cuda import compile_blocks
from videoswin.acceleration.fused import FusedBlock, can_fuse, linear_add, norm_linear, norm_mlp_add
from videoswin.acceleration.triton.attention import triton_attention
from videoswin.model.config import VideoSwinConfig
from videoswin.model.swin import VideoSwin

TINIEST = VideoSwinConfig(embed_dim=16, depths=(1,), num_heads=(1,), window=(2, 3, 3), num_classes=3)


def weights() -> list[Tensor]:
    """x, norm, fc1, fc2."""
    shapes = [(6, 16), (16,), (16,), (64, 16), (64,), (16, 64), (16,)]
    generator = torch.Generator().manual_seed(2)
    return [torch.randn(shape, generator=generator) for shape in shapes]


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
    torch._dynamo.reset()
    model = VideoSwin(TINIEST, attention=triton_attention).eval()
    clips = torch.randn(1, 3, 8, 24, 24)
    with torch.no_grad():
        expected = model(clips)
        replace_blocks(model.stages[0], FusedBlock)
        torch.testing.assert_close(compile_blocks(model, backend="aot_eager")(clips), expected)


@pytest.mark.parametrize(
    ("channels", "fits"), [(16, True), (24, False), (96, True), (112, False), (256, True), (512, False)]
)
def test_blocks_of_few_channels_can_be_fused(channels: int, fits: bool) -> None:
    with torch.device("meta"):
        config = TINIEST.replace(embed_dim=channels)
        assert can_fuse(VideoSwin(config).stages[0].blocks[0]) is fits
