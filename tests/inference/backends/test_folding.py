"""Models with folded norms have the same outputs for all grids."""

import copy

import pytest
import torch
from torch import nn

from videoswin.inference.backends.graph import fold_norms
from videoswin.model.config import VideoSwinConfig
from videoswin.model.swin import VideoSwin

CONFIG = VideoSwinConfig(embed_dim=16, depths=(2, 2), num_heads=(1, 2), window=(2, 3, 3), num_classes=5)


@pytest.fixture
def model() -> VideoSwin:
    torch.manual_seed(0)
    model = VideoSwin(CONFIG).double().eval()
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.5)  # also weights and biases of norms, which begin as 1 and 0
    return model


@pytest.mark.parametrize(
    ("size", "left"),
    [
        pytest.param((8, 48, 48), 0, id="whole windows"),
        pytest.param((8, 36, 36), 2, id="padded after an odd merging"),
        pytest.param((3, 8, 8), 0, id="windows clipped to the grid"),
        pytest.param((6, 40, 28), 4, id="both stages padded"),
    ],
)
def test_folded_norms_change_no_logit(model: VideoSwin, size: tuple[int, int, int], left: int) -> None:
    folded = copy.deepcopy(model)
    clips = torch.randn(2, 3, *size, dtype=torch.double)
    t, h, w = folded.patch_embed(clips).shape[1:4]
    fold_norms(folded, (t, h, w))
    torch.testing.assert_close(folded(clips), model(clips))
    unfolded = [name for name, p in folded.named_parameters() if "norm" in name and "patch" not in name]
    assert len(unfolded) == 2 * left  # a weight and a bias each
