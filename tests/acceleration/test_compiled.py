"""Compiled blocks equal plain blocks; test_kernels_on_a_gpu.py tests captured graphs."""

import copy

import pytest
import torch

from videoswin.acceleration.cuda import CapturedModel, compile_blocks
from videoswin.acceleration.triton.attention import triton_attention
from videoswin.inference.predictor import Predictor
from videoswin.model.config import VideoSwinConfig
from videoswin.model.swin import VideoSwin
from videoswin.video.spec import ClipSpec, ViewPlan
from videoswin.weights.checkpoint import Checkpoint

TINIEST = VideoSwinConfig(embed_dim=16, depths=(4, 2), num_heads=(1, 2), window=(2, 3, 3), num_classes=3)


@pytest.fixture
def model() -> VideoSwin:
    torch.manual_seed(0)
    return VideoSwin(TINIEST, attention=triton_attention)


@pytest.mark.timeout(600)  # compilers are slow on a busy machine
@pytest.mark.filterwarnings("ignore:The .grad attribute")  # torch.compile looks at that of a block's input
def test_compiled_blocks_give_the_same_logits_and_gradients(model: VideoSwin) -> None:
    torch._dynamo.reset()
    eager = copy.deepcopy(model)
    compiled = compile_blocks(model, backend="aot_eager")
    for size in ((7, 30, 41), (4, 24, 24)):
        clips = torch.randn(1, 3, *size)
        torch.testing.assert_close(compiled(clips), eager(clips))
    for each in (compiled, eager):
        each(clips).sum().backward()
    for mine, expected in zip(compiled.parameters(), eager.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, expected.grad)


def test_compiling_blocks_leaves_names_of_weights_alone(model: VideoSwin) -> None:
    names = list(model.state_dict())
    assert list(compile_blocks(model, backend="aot_eager").state_dict()) == names


@pytest.mark.timeout(600)
def test_a_predictor_answers_the_same_with_compiled_blocks(model: VideoSwin) -> None:
    torch._dynamo.reset()
    checkpoint = Checkpoint(
        weights=model.state_dict(),
        config=TINIEST,
        clip=ClipSpec(frames=4, size=24),
        views=ViewPlan(clips=1, crops=1),
        labels=("a", "b", "c"),
        name="tiniest",
    )
    predictor = Predictor(checkpoint, device="cpu")
    views = torch.randint(256, (2, 3, 4, 24, 24), dtype=torch.uint8)
    expected = predictor.score(views)
    compile_blocks(predictor.model, backend="aot_eager")
    torch.testing.assert_close(predictor.score(views), expected)


def test_a_graph_of_a_cpu_is_refused(model: VideoSwin) -> None:
    with pytest.raises(ValueError, match="must be on a CUDA device, got clips on cpu"):
        CapturedModel(model.eval(), torch.randn(1, 3, 4, 24, 24))
