"""Ours against torchvision's swin3d_t, swin3d_s and swin3d_b with the same random weights.

`sliced_bias=True` throughout: torchvision reads the position bias of clipped windows that way.
"""

from typing import NamedTuple

import pytest
import torch
from torch import Tensor, nn

from benchmarks.peers import relative_difference, torchvision_name, torchvision_swin3d
from videoswin.model.config import BASE, SMALL, TINY
from videoswin.model.swin import VideoSwin

pytest.importorskip("torchvision")

CONFIGS = {"t": TINY, "s": SMALL, "b": BASE}


class Pair(NamedTuple):
    ours: VideoSwin
    theirs: nn.Module


@pytest.fixture(scope="module", params=["t", "s", "b"])
def pair(request: pytest.FixtureRequest) -> Pair:
    """One model twice. Its position biases are as large as trained ones, so that a wrong lookup shows."""
    torch.manual_seed(0)
    ours = VideoSwin(CONFIGS[request.param].replace(sliced_bias=True)).eval()
    for name, parameter in ours.named_parameters():
        if name.endswith(("bias_table", "bias")):
            nn.init.normal_(parameter, std=0.5 if name.endswith("bias_table") else 0.02)
    return Pair(ours, torchvision_swin3d(ours, request.param))


@pytest.mark.slow
@pytest.mark.timeout(600)  # half a minute on an idle core
def test_logits_equal_at_the_published_size(pair: Pair) -> None:
    assert _logit_difference(pair, torch.randn(1, 3, 32, 224, 224)) < 1e-5


@pytest.mark.parametrize(
    "shape",
    [
        pytest.param((1, 3, 7, 97, 131), id="odd"),
        pytest.param((1, 3, 1, 64, 224), id="one-frame"),
        pytest.param((1, 3, 16, 112, 112), id="clipped-windows"),
        pytest.param((2, 3, 18, 36, 40), id="batch"),
        pytest.param((2, 3, 1, 1, 1), id="one-pixel"),
    ],
)
def test_logits_equal_at_other_sizes(pair: Pair, shape: tuple[int, ...]) -> None:
    assert _logit_difference(pair, torch.randn(shape)) < 1e-5


def test_gradients_of_every_parameter_equal(pair: Pair) -> None:
    clips = torch.randn(1, 3, 18, 32, 40, dtype=torch.float64)
    target = torch.randn(1, 400, dtype=torch.float64)
    theirs = _gradients(pair.theirs, clips, target)
    ours = _gradients(pair.ours, clips, target)
    assert {torchvision_name(name) for name in ours} == set(theirs)
    scale = max(gradient.abs().max() for gradient in theirs.values())
    for name, gradient in ours.items():
        # Some gradients are nothing but rounding: the softmax does not feel the bias of the keys.
        torch.testing.assert_close(
            gradient, theirs[torchvision_name(name)], rtol=1e-8, atol=1e-11 * float(scale), msg=name
        )
        if name.endswith("bias_table"):
            assert gradient.abs().max() > 0


@torch.inference_mode()
def _logit_difference(pair: Pair, clips: Tensor) -> float:
    return relative_difference(pair.ours(clips), pair.theirs(clips))


def _gradients(model: nn.Module, clips: Tensor, target: Tensor) -> dict[str, Tensor]:
    """Gradients of a fixed weighting of the logits, in float64; the model is left as it was."""
    model.double()
    loss = (model(clips) * target).sum()
    gradients = torch.autograd.grad(loss, list(model.parameters()))
    names = [name for name, _ in model.named_parameters()]
    model.float()
    return dict(zip(names, gradients, strict=True))
