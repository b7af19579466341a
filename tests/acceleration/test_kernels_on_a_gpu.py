"""The kernels on a GPU at the sizes of published models; skipped without one."""

import pytest
import torch
from torch import Tensor

from tests.acceleration.problems import WINDOWS, Problem, error, problem
from videoswin.acceleration import optimize_for_inference, use_training_attention
from videoswin.acceleration.block import BRANCHES, replace_blocks
from videoswin.acceleration.cuda import (
    TOLERANCE,
    CapturedModel,
    branch_error,
    compile_blocks,
    trial_block,
    trial_tokens,
)
from videoswin.acceleration.fused import FusedBlock, can_fuse, norm_linear
from videoswin.acceleration.triton.attention import triton_attention, window_attention
from videoswin.inference.backends.pytorch import PixelModel
from videoswin.model.attention import box_attention
from videoswin.model.config import NANO, TINY
from videoswin.model.swin import VideoSwin
from videoswin.model.windows import Grid
from videoswin.video.spec import IMAGENET
from videoswin.video.views import normalize

pytest.importorskip("triton")
pytestmark = [
    pytest.mark.gpu,
    pytest.mark.timeout(600),  # kernels are compiled at their first call
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here"),
]

PUBLISHED: dict[str, tuple[Grid, Grid, Grid]] = {
    "plain": ((16, 14, 14), (8, 7, 7), (0, 0, 0)),
    "shifted": ((16, 14, 14), (8, 7, 7), (4, 3, 3)),
    "last stage": ((16, 7, 7), (8, 7, 7), (4, 3, 3)),
    "padded": ((9, 15, 20), (8, 7, 7), (4, 3, 3)),
    "clipped": ((4, 5, 14), (8, 7, 7), (4, 3, 3)),
    "Something-Something": ((16, 14, 14), (16, 7, 7), (8, 3, 3)),
    "384 pixels": ((8, 24, 24), (8, 12, 12), (4, 6, 6)),
}
by_dtype = pytest.mark.parametrize("dtype", TOLERANCE, ids=str)


def ours(given: Problem, dtype: torch.dtype) -> tuple[Tensor, ...]:
    """Output and gradients of qkv and table."""
    qkv, table = given.qkv.to(dtype).requires_grad_(), given.table.float().requires_grad_()
    out = triton_attention(qkv, table, given.geometry)
    return out.detach(), *torch.autograd.grad(out, (qkv, table), given.upstream.to(dtype))


def paper(given: Problem) -> tuple[Tensor, ...]:
    return given.answer(), *given.gradients()


@by_dtype
@pytest.mark.parametrize("kind", PUBLISHED)
def test_published_windows_equal_the_paper_forward_and_backward(kind: str, dtype: torch.dtype) -> None:
    given = problem(*PUBLISHED[kind], width=32, device="cuda")
    errors = [error(*each) for each in zip(ours(given, dtype), paper(given), strict=True)]
    assert max(errors) < TOLERANCE[dtype], errors


@by_dtype
@pytest.mark.parametrize("kind", WINDOWS)
def test_every_kind_of_window_equals_the_paper(kind: str, dtype: torch.dtype) -> None:
    given = problem(*WINDOWS[kind], batch=2, device="cuda")
    errors = [error(*each) for each in zip(ours(given, dtype), paper(given), strict=True)]
    assert max(errors) < TOLERANCE[dtype], errors


@pytest.mark.parametrize("width", [16, 64])
def test_other_widths_of_a_head_equal_the_paper(width: int) -> None:
    given = problem(*PUBLISHED["shifted"], width=width, device="cuda")
    errors = [error(*each) for each in zip(ours(given, torch.bfloat16), paper(given), strict=True)]
    assert max(errors) < TOLERANCE[torch.bfloat16], errors


def test_a_sliced_bias_equals_the_paper() -> None:
    given = problem(*PUBLISHED["clipped"], width=32, sliced_bias=True, device="cuda")
    errors = [error(*each) for each in zip(ours(given, torch.bfloat16), paper(given), strict=True)]
    assert max(errors) < TOLERANCE[torch.bfloat16], errors


def test_gradients_have_the_same_bits_every_time() -> None:
    given = problem(*PUBLISHED["shifted"], batch=4, width=32, device="cuda")
    first = ours(given, torch.bfloat16)
    for _ in range(5):
        again = ours(given, torch.bfloat16)
        assert all(torch.equal(one, other) for one, other in zip(first, again, strict=True))


def test_kernels_can_be_chosen_for_training() -> None:
    model = VideoSwin(NANO)
    use_training_attention(model, "cuda", torch.bfloat16, kernels="triton")
    assert model.stages[0].blocks[0].attn.attention is triton_attention


def test_heads_that_the_kernels_cannot_do_are_an_error_that_names_them() -> None:
    given = problem(*WINDOWS["plain"], width=24, device="cuda")
    with pytest.raises(ValueError, match=r"got 24 channels in torch\.float32; box_attention supports all"):
        triton_attention(given.qkv.float(), given.table.float(), given.geometry)


def test_autocast_rounds_qkv_and_not_the_bias_table() -> None:
    given = problem(*PUBLISHED["shifted"], width=32, device="cuda")
    with torch.autocast("cuda", torch.float16):
        out = triton_attention(given.qkv.float(), given.table.float(), given.geometry)
    assert out.dtype == torch.float16
    assert error(out, given.answer()) < TOLERANCE[torch.float16]


def test_torch_opcheck_accepts_the_operator() -> None:
    given = problem(*WINDOWS["padded"], device="cuda")
    qkv, table = given.qkv.half().requires_grad_(), given.table.float().requires_grad_()
    geometry = given.geometry
    torch.library.opcheck(
        window_attention, (qkv, table, geometry.bias_index, geometry.window, geometry.shift)
    )


def pair() -> tuple[VideoSwin, VideoSwin]:
    """Swin-T with boxes and with the kernels, biases as large as trained ones."""
    torch.manual_seed(0)
    usual, kernels = VideoSwin(TINY), VideoSwin(TINY, attention=triton_attention)
    for name, parameter in usual.named_parameters():
        if name.endswith("bias_table"):
            torch.nn.init.normal_(parameter, std=0.5)
    kernels.load_state_dict(usual.state_dict())
    return usual.cuda().eval(), kernels.cuda().eval()


def test_logits_of_a_whole_model_equal_those_with_boxes() -> None:
    usual, kernels = pair()
    clips = torch.randn(2, 3, 32, 224, 224, device="cuda")
    with torch.inference_mode():
        expected = usual(clips)
        assert error(kernels(clips), expected.double()) < 1e-4
        with torch.autocast("cuda", torch.bfloat16):
            assert error(kernels(clips), expected.double()) < 3e-2


def test_gradients_of_a_whole_model_equal_those_with_boxes() -> None:
    clips = torch.randn(1, 3, 16, 112, 96, device="cuda")
    usual, kernels = pair()
    for model in (usual, kernels):
        model(clips).square().sum().backward()
    for (name, expected), mine in zip(usual.named_parameters(), kernels.parameters(), strict=True):
        assert error(mine.grad, expected.grad.double()) < 1e-3, name


def test_compiled_blocks_give_the_same_logits() -> None:
    usual, kernels = pair()
    clips = torch.randn(1, 3, 16, 112, 112, device="cuda")
    with torch.inference_mode():
        assert error(compile_blocks(kernels)(clips), usual(clips).double()) < 1e-4


def test_compiled_fused_blocks_give_the_same_logits() -> None:
    usual, kernels = pair()
    for stage in kernels.stages:
        if can_fuse(stage.blocks[0]):
            replace_blocks(stage, FusedBlock)
    clips = torch.randn(1, 3, 16, 112, 112, device="cuda")
    with torch.inference_mode():
        ours = compile_blocks(kernels.bfloat16())(clips.bfloat16())
        assert error(ours, usual(clips).double()) < 3e-2


@pytest.mark.parametrize("width", [112, 110], ids=["whole tokens", "padded"])
def test_a_captured_graph_takes_pixels(width: int) -> None:
    usual, kernels = pair()
    views = torch.randint(256, (2, 3, 16, 112, width), dtype=torch.uint8, device="cuda")
    captured = CapturedModel(PixelModel(kernels, IMAGENET), torch.zeros_like(views))
    with torch.inference_mode():
        assert error(captured(views), usual(normalize(views, IMAGENET)).double()) < 1e-4


def test_a_captured_graph_gives_the_logits_of_new_clips() -> None:
    usual, kernels = pair()
    captured = CapturedModel(kernels, torch.randn(1, 3, 16, 112, 112, device="cuda"))
    for _ in range(3):
        clips = torch.randn(1, 3, 16, 112, 112, device="cuda")
        with torch.inference_mode():
            assert error(captured(clips), usual(clips).double()) < 1e-4


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("channels", [96, 128, 192, 256])
def test_fused_branches_equal_plain_ones(channels: int, dtype: torch.dtype) -> None:
    block = trial_block(channels, channels // 32, TINY.window, triton_attention).to("cuda", dtype)
    x = trial_tokens(block)[:3]
    with torch.inference_mode():
        for branch in BRANCHES:
            assert branch_error(FusedBlock(block), block, branch, x) < TOLERANCE[dtype], branch


def test_a_fused_layer_addresses_more_than_two_to_the_31_elements() -> None:
    free, _ = torch.cuda.mem_get_info()
    if free < 24 * 2**30:
        pytest.skip(f"needs 24 GiB of GPU memory, {free / 2**30:.0f} are free")
    weight, bias = torch.randn(384, 96, device="cuda").half() / 10, torch.randn(384, device="cuda").half()
    norm = (torch.ones(96, device="cuda").half(), torch.zeros(96, device="cuda").half(), 1e-5)
    x = torch.zeros(2**31 // 384 + 200, 96, device="cuda", dtype=torch.float16)
    x[-100:] = torch.randn(100, 96, device="cuda").half()
    assert torch.equal(norm_linear(x, *norm, weight, bias)[-100:], norm_linear(x[-100:], *norm, weight, bias))


@pytest.mark.parametrize("kernels", [None, "triton"])
def test_a_model_optimized_for_inference_answers_as_before(kernels) -> None:
    usual, ours = pair()
    optimize_for_inference(ours, "cuda", torch.bfloat16, kernels=kernels)
    clips = torch.randn(2, 3, 32, 224, 224, device="cuda")
    with torch.inference_mode():
        assert error(ours(clips.bfloat16()), usual(clips).double()) < 3e-2


def test_more_than_two_to_the_31_elements_are_addressed() -> None:
    free, _ = torch.cuda.mem_get_info()
    if free < 24 * 2**30:
        pytest.skip(f"needs 24 GiB of GPU memory, {free / 2**30:.0f} are free")
    given = problem((16, 56, 56), (8, 7, 7), (4, 3, 3), heads=3, width=32, device="cuda")
    geometry, table = given.geometry, given.table.float()
    batch = 2**31 // given.qkv.numel() + 2
    one = given.qkv.bfloat16()
    many = one.new_zeros(batch, *one.shape[1:])
    many[-1] = one[0]
    with torch.inference_mode():
        last = triton_attention(many, table, geometry)[-1:]
        assert torch.equal(last, triton_attention(one, table, geometry))
        assert error(last, box_attention(one.float(), table, geometry).double()) < TOLERANCE[torch.bfloat16]
