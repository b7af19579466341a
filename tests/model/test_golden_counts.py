"""Parameters and multiply-adds of every variant equal the published or computed values."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from tests.model.reference import plain_attention
from videoswin.model.config import BASE, BASE_W16, LARGE, LARGE_384, NANO, SMALL, TINY, VideoSwinConfig
from videoswin.model.swin import VideoSwin

PARAMETERS = [
    # config, with its head, backbone alone
    pytest.param(TINY, 28_158_070, 27_850_470, id="tiny"),
    pytest.param(SMALL, 49_816_678, 49_509_078, id="small"),
    pytest.param(BASE, 88_048_984, 87_638_984, id="base"),
    pytest.param(BASE.replace(num_classes=600), 88_253_984, 87_638_984, id="base-k600"),
    pytest.param(BASE_W16.replace(num_classes=174), 88_834_038, 88_655_688, id="base-w16-ssv2"),
    pytest.param(LARGE, 196_953_916, 196_339_116, id="large"),
    pytest.param(LARGE_384, 199_999_516, 199_384_716, id="large-384"),
    pytest.param(NANO, 573_035, 571_874, id="nano"),
]

GIGA_MACS = [
    # config, frames, pixels, 10^9 multiply-adds as printed
    pytest.param(TINY, 32, 224, "87.76", id="tiny"),
    pytest.param(SMALL, 32, 224, "165.68", id="small"),
    pytest.param(BASE, 32, 224, "281.33", id="base"),
    pytest.param(BASE_W16.replace(num_classes=174), 32, 224, "320.36", id="base-w16-ssv2"),
    pytest.param(LARGE, 32, 224, "603.27", id="large"),
    pytest.param(LARGE_384, 32, 384, "2106.4", id="large-384"),
    # torchvision's figures are for 16 frames.
    pytest.param(TINY, 16, 224, "43.882", id="tiny-torchvision"),
]


@pytest.mark.parametrize(("config", "total", "backbone"), PARAMETERS)
def test_number_of_parameters(config: VideoSwinConfig, total: int, backbone: int) -> None:
    with torch.device("meta"):
        model = VideoSwin(config)
    head = sum(parameter.numel() for parameter in model.head.parameters())
    assert sum(parameter.numel() for parameter in model.parameters()) == total
    assert total - head == backbone


@pytest.mark.parametrize(("config", "frames", "pixels", "printed"), GIGA_MACS)
def test_multiply_adds_of_one_clip(config: VideoSwinConfig, frames: int, pixels: int, printed: str) -> None:
    # Published counts are those of whole windows, masked pairs included: `plain_attention`, not the boxes.
    with torch.device("meta"):
        model = VideoSwin(config, attention=plain_attention)
        clip = torch.empty(1, 3, frames, pixels, pixels)
    with torch.device("meta"), torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(clip)
    decimals = len(printed.split(".")[1])
    assert f"{counter.get_total_flops() / 2e9:.{decimals}f}" == printed
