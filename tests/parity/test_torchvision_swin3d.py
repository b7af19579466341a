"""Ours against torchvision's swin3d with the same random weights.

The published variants differ in nothing but sizes, so `make test` compares their names and shapes, and the
logits and gradients of a narrow model with the stages, the window and the input of the published ones.
`sliced_bias=True` throughout: torchvision reads the position bias of clipped windows that way.
"""

from typing import NamedTuple

import pytest
import torch
from torch import Tensor, nn

from benchmarks.peers import relative_difference, torchvision_name
from videoswin.model.config import BASE, SMALL, TINY, VideoSwinConfig
from videoswin.model.swin import VideoSwin

video = pytest.importorskip("torchvision").models.video

NARROW = VideoSwinConfig(embed_dim=16, depths=(2, 2, 2, 2), num_heads=(1, 2, 4, 8), sliced_bias=True)


class Pair(NamedTuple):
    ours: VideoSwin
    theirs: nn.Module


@pytest.fixture(scope="module")
def pair() -> Pair:
    return make_pair(NARROW)


def make_pair(config: VideoSwinConfig) -> Pair:
    """One model twice. Its position biases are as large as trained ones, so that a wrong lookup shows."""
    torch.manual_seed(0)
    ours = VideoSwin(config.replace(sliced_bias=True)).eval()
    for name, parameter in ours.named_parameters():
        if name.endswith(("bias_table", "bias")):
            nn.init.normal_(parameter, std=0.5 if name.endswith("bias_table") else 0.02)
    theirs = video.swin_transformer.SwinTransformer3d(
        patch_size=[2, 4, 4],
        embed_dim=config.embed_dim,
        depths=list(config.depths),
        num_heads=list(config.num_heads),
        window_size=list(config.window),
    )
    weights = {torchvision_name(name): tensor for name, tensor in ours.state_dict().items()}
    missing, unexpected = theirs.load_state_dict(weights, strict=False)
    assert not unexpected
    assert all(name.endswith("relative_position_index") for name in missing)
    return Pair(ours, theirs.eval())


@pytest.mark.parametrize(("variant", "config"), [("t", TINY), ("s", SMALL), ("b", BASE)])
def test_published_variants_have_the_same_names_and_shapes(variant: str, config: VideoSwinConfig) -> None:
    with torch.device("meta"):
        theirs = getattr(video, f"swin3d_{variant}")()
        ours = VideoSwin(config)
    assert {torchvision_name(name): tensor.shape for name, tensor in ours.named_parameters()} == {
        name: tensor.shape for name, tensor in theirs.named_parameters()
    }


@pytest.mark.slow  # torchvision and we initialize up to 88 million parameters each
@pytest.mark.parametrize("config", [TINY, SMALL, BASE], ids=["t", "s", "b"])
def test_logits_of_published_variants_equal(config: VideoSwinConfig) -> None:
    assert _logit_difference(make_pair(config), torch.randn(1, 3, 16, 64, 80)) < 1e-5


@pytest.mark.parametrize(
    "shape",
    [
        pytest.param((1, 3, 32, 224, 224), id="published"),
        pytest.param((1, 3, 7, 97, 131), id="odd"),
        pytest.param((1, 3, 1, 64, 224), id="one-frame"),
        pytest.param((1, 3, 16, 112, 112), id="clipped-windows"),
        pytest.param((2, 3, 18, 36, 40), id="batch"),
        pytest.param((2, 3, 1, 1, 1), id="one-pixel"),
    ],
)
def test_logits_equal(pair: Pair, shape: tuple[int, ...]) -> None:
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
