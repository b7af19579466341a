"""An image model inflated to video and shown a still clip must compute what the image model computes.

Inflation spreads the patch embedding evenly over the two frames of a token, so every token of a still clip
is the image's. It repeats the position bias over time, so a window's keys are the image's keys, each P times
over: the softmax gives each copy a P-th of its weight, and attention returns the image's values.
"""

import re
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from benchmarks.peers import relative_difference
from videoswin.model.config import PATCH, TINY
from videoswin.model.swin import VideoSwin

timm = pytest.importorskip("timm")

NARROW = TINY.replace(embed_dim=24, depths=(2, 2, 2, 2), num_heads=(1, 2, 4, 8), num_classes=10)


@pytest.fixture(scope="module")
def image_model() -> Any:
    """timm's Swin at 224 pixels, narrow, with random weights and position biases as large as trained ones."""
    torch.manual_seed(0)
    model = timm.create_model(
        "swin_tiny_patch4_window7_224",
        embed_dim=NARROW.embed_dim,
        depths=NARROW.depths,
        num_heads=NARROW.num_heads,
        num_classes=NARROW.num_classes,
    )
    for name, parameter in model.named_parameters():
        if name.endswith("bias_table"):
            nn.init.normal_(parameter, std=0.5)
    return model.eval()


def inflated(name: str, tensor: Tensor) -> tuple[str, Tensor]:
    """Our name and video version of one entry of timm's state dict."""
    name = re.sub(r"^layers\.(\d)\.downsample", lambda m: f"stages.{int(m[1]) - 1}.downsample", name)
    name = name.replace("layers.", "stages.").replace("head.fc.", "head.")
    if name == "patch_embed.proj.weight":
        tensor = tensor[:, :, None].repeat(1, 1, PATCH[0], 1, 1) / PATCH[0]
    if name.endswith("bias_table"):
        tensor = tensor.repeat(2 * NARROW.window[0] - 1, 1)  # time is the slowest axis of the table
    return name, tensor


@torch.inference_mode()
@pytest.mark.parametrize("frames", [2, 32])
def test_every_stage_sees_the_image_at_every_moment(image_model: Any, frames: int) -> None:
    video_model = VideoSwin(NARROW).eval()
    state = image_model.state_dict()
    video_model.load_state_dict(dict(inflated(name, tensor) for name, tensor in state.items()))
    image = torch.randn(1, 3, 224, 224)
    clip = image[:, :, None].expand(-1, -1, frames, -1, -1)
    last, theirs = image_model.forward_intermediates(image)  # (1, H, W, C), four times (1, C, H, W)
    theirs[-1] = last.permute(0, 3, 1, 2)  # ours is normed too
    for ours, image_map in zip(video_model.feature_maps(clip), theirs, strict=True):
        assert ours.shape[2] == frames // 2
        assert relative_difference(ours, image_map[:, :, None]) < 1e-5
    assert relative_difference(video_model(clip), image_model(image)) < 1e-5
