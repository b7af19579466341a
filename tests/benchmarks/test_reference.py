"""The benchmarks' reference is the model that it is timed against."""

import pytest
import torch
from torch import Tensor, nn

from benchmarks.reference import Attend, ReferenceVideoSwin, fused_with_full_mask, materialised
from videoswin.model.config import VideoSwinConfig
from videoswin.model.swin import VideoSwin

SMALL = VideoSwinConfig(
    embed_dim=16, depths=(2, 2), num_heads=(1, 2), window=(2, 3, 3), num_classes=5, sliced_bias=True
)
both = pytest.mark.parametrize("attend", [materialised, fused_with_full_mask])


def pair(attend: Attend) -> tuple[VideoSwin, ReferenceVideoSwin]:
    torch.manual_seed(0)
    ours = VideoSwin(SMALL).double()
    for name, parameter in ours.named_parameters():
        if name.endswith(("bias_table", "bias")):
            nn.init.normal_(parameter)  # so that a wrong lookup shows
    reference = ReferenceVideoSwin(SMALL, attend).double()
    reference.load_state_dict(ours.state_dict())
    return ours, reference


def clips(*size: int) -> Tensor:
    return torch.randn(2, 3, *size, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


@both
@pytest.mark.parametrize("size", [(8, 48, 48), (7, 41, 57), (2, 24, 60), (9, 20, 17), (1, 1, 1)], ids=str)
def test_logits_of_the_reference_equal_ours(attend: Attend, size: tuple[int, int, int]) -> None:
    ours, reference = pair(attend)
    torch.testing.assert_close(reference(clips(*size)), ours(clips(*size)), rtol=1e-9, atol=1e-9)


@both
def test_gradients_of_the_reference_equal_ours(attend: Attend) -> None:
    models = pair(attend)
    for model in models:
        model(clips(7, 41, 57)).square().sum().backward()
    ours, reference = ({name: p.grad for name, p in model.named_parameters()} for model in models)
    torch.testing.assert_close(reference, ours, rtol=1e-8, atol=1e-9)


@pytest.mark.timeout(600)  # compilers are slow on a busy machine
def test_the_compiled_reference_equals_ours() -> None:
    ours, reference = pair(materialised)
    torch._dynamo.reset()
    compiled = torch.compile(reference, backend="aot_eager", fullgraph=True, dynamic=False)
    with torch.no_grad():
        torch.testing.assert_close(compiled(clips(7, 41, 57)), ours(clips(7, 41, 57)), rtol=1e-9, atol=1e-9)
