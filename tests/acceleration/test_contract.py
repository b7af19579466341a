"""Every accelerated model equals the plain one; a row for each implementation."""

import copy
from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, nn

from videoswin.acceleration import cpu, fused, optimize_for_inference, use_training_attention
from videoswin.acceleration.block import replace_blocks
from videoswin.acceleration.cuda import compile_blocks
from videoswin.acceleration.triton.attention import triton_attention
from videoswin.model.config import BASE, BASE_W16, LARGE, LARGE_384, NANO, TINY, VideoSwinConfig
from videoswin.model.swin import VideoSwin
from videoswin.model.windows import WindowGeometry

VARIANTS = {"T": TINY, "B": BASE, "B-w16": BASE_W16, "L": LARGE, "L-384": LARGE_384, "nano": NANO}
ODD_CLIPS = (1, 3, 5, 61, 45)
TINIEST = VideoSwinConfig(embed_dim=16, depths=(2,), num_heads=(1,), window=(2, 3, 3), num_classes=3)


def narrow(config: VideoSwinConfig) -> VideoSwinConfig:
    """Return the variant with 4 channels per head and at most two blocks per stage."""
    return config.replace(
        embed_dim=4 * config.num_heads[0],
        depths=tuple(min(2, depth) for depth in config.depths),
        num_classes=3,
    )


def plain_model(config: VideoSwinConfig) -> VideoSwin:
    """Return a model whose values are as large as trained ones, so that wrong lookups show."""
    torch.manual_seed(0)
    model = VideoSwin(config).eval()
    for name, parameter in model.named_parameters():
        if name.endswith("bias_table"):
            nn.init.normal_(parameter, std=0.5)
        elif parameter.ndim == 1:
            nn.init.normal_(parameter, mean=float(name.endswith("weight")), std=0.1)
    return model


def cpu_blocks(model: VideoSwin, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu, "CACHED_NUMBERS", 2000)  # several pieces
    optimize_for_inference(model)


def lean_attention(model: VideoSwin, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu, "CACHED_NUMBERS", 2000)
    use_training_attention(model, "cpu", torch.float32)


def triton_operators(model: VideoSwin, monkeypatch: pytest.MonkeyPatch) -> None:
    for stage in model.stages:
        for block in stage.blocks:
            block.attn.attention = triton_attention


def fused_blocks(model: VideoSwin, monkeypatch: pytest.MonkeyPatch) -> None:
    for stage in model.stages:
        replace_blocks(stage, fused.FusedBlock)


def interpreted_attention(model: VideoSwin, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("triton")
    from videoswin.acceleration.triton.backward import attention_backward
    from videoswin.acceleration.triton.forward import attention_forward

    class Interpreted(torch.autograd.Function):
        @staticmethod
        def forward(ctx, qkv: Tensor, table: Tensor, geometry: WindowGeometry) -> Tensor:
            arguments = (qkv, table, geometry.bias_index)
            ctx.saved = (*arguments, *attention_forward(*arguments, geometry.window, geometry.shift))
            ctx.geometry = geometry
            return ctx.saved[3]

        @staticmethod
        def backward(ctx, upstream: Tensor) -> tuple[Tensor, Tensor, None]:
            window, shift = ctx.geometry.window, ctx.geometry.shift
            return *attention_backward(upstream.contiguous(), *ctx.saved, window, shift), None

    for block in model.stages[0].blocks:
        block.attn.attention = Interpreted.apply


def interpreted_fused_blocks(model: VideoSwin, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("triton")
    from videoswin.acceleration.triton import linear

    for name in ("norm_linear", "linear_add", "norm_mlp_add"):
        monkeypatch.setattr(fused, name, getattr(linear, name))
    fused_blocks(model, monkeypatch)


def compiled_blocks(model: VideoSwin, monkeypatch: pytest.MonkeyPatch) -> None:
    torch._dynamo.reset()
    compile_blocks(model, backend="aot_eager")


@dataclass(frozen=True)
class Row:
    accelerate: Callable[[VideoSwin, pytest.MonkeyPatch], None]
    trains: bool
    configs: tuple[VideoSwinConfig, ...]
    clips: tuple[int, ...] = ODD_CLIPS


EVERY_VARIANT = tuple(narrow(config) for config in VARIANTS.values())
ROWS = {
    "CPU blocks": Row(cpu_blocks, False, EVERY_VARIANT),
    "lean training attention": Row(lean_attention, True, EVERY_VARIANT),
    "Triton operators on a CPU": Row(triton_operators, True, EVERY_VARIANT[-1:]),
    "fused operators on a CPU": Row(fused_blocks, False, EVERY_VARIANT),
    # The interpreter and the compiler take seconds for one small model.
    "Triton attention, interpreted": Row(interpreted_attention, True, (TINIEST,), (1, 3, 3, 19, 14)),
    "fused blocks, interpreted": Row(interpreted_fused_blocks, False, (TINIEST,), (1, 3, 4, 24, 12)),
    "compiled blocks": Row(compiled_blocks, True, (TINIEST,), (1, 3, 2, 17, 14)),
}


@pytest.mark.parametrize("name", ROWS)
@pytest.mark.filterwarnings("ignore:The .grad attribute")  # torch.compile looks at that of a block's input
def test_an_accelerated_model_equals_the_plain_one(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    row = ROWS[name]
    if "interpreted" in name and torch.cuda.is_available():
        pytest.skip("with a GPU, test_kernels_on_a_gpu.py runs the kernels")
    clips = torch.randn(row.clips, generator=torch.Generator().manual_seed(1))
    for config in row.configs:
        plain = plain_model(config)
        accelerated = copy.deepcopy(plain)
        row.accelerate(accelerated, monkeypatch)
        assert list(accelerated.state_dict()) == list(plain.state_dict())
        with torch.set_grad_enabled(row.trains):
            logits, expected = accelerated(clips), plain(clips)
        torch.testing.assert_close(logits, expected, rtol=1e-5, atol=1e-5)
        if not row.trains:
            continue
        for each in (logits, expected):
            each.square().sum().backward()
        for mine, expected in zip(accelerated.parameters(), plain.parameters(), strict=True):
            torch.testing.assert_close(mine.grad, expected.grad, rtol=1e-4, atol=1e-5)
