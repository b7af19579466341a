"""The model has the same outputs on a GPU; skipped without one."""

import pytest
import torch

from videoswin.model.config import NANO, TINY
from videoswin.model.swin import VideoSwin

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here"),
]


def test_logits_on_a_gpu_equal_those_on_the_cpu() -> None:
    torch.manual_seed(0)
    model = VideoSwin(TINY).eval()
    clips = torch.randn(2, 3, 8, 97, 131)
    with torch.inference_mode():
        ours = model(clips)
        theirs = model.cuda()(clips.cuda()).cpu()
    # TF32 is off by default for matrix products; what is left is the order of summation.
    torch.testing.assert_close(theirs, ours, rtol=1e-4, atol=1e-5)


def test_gradients_on_a_gpu_equal_those_on_the_cpu() -> None:
    torch.manual_seed(0)
    clips = torch.randn(2, 3, 8, 64, 64, dtype=torch.float64)
    gradients = []
    for device in ("cpu", "cuda"):
        torch.manual_seed(1)
        model = VideoSwin(NANO).double().to(device)
        model(clips.to(device)).square().sum().backward()
        gradients.append({name: p.grad.cpu() for name, p in model.named_parameters() if p.grad is not None})
    torch.testing.assert_close(gradients[1], gradients[0], rtol=1e-8, atol=1e-10)
