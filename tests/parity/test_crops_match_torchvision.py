"""The frame of torchvision's evaluation: F.resize rounds the longer side down, F.center_crop half to even."""

import pytest
import torch

from tests.video.corners import crop_corners
from videoswin.video.spec import IMAGENET, ClipSpec, apply_protocol
from videoswin.video.views import normalize, resize_short_side, spatial_crops

transforms = pytest.importorskip("torchvision.transforms")
functional = transforms.functional


@pytest.mark.parametrize("height", [112, 224])
def test_longer_side_and_crop_match_torchvision_for_every_width(height):
    for width in range(height, 4 * height):
        frame = torch.arange(width, dtype=torch.float32).expand(1, height, width)
        resized = functional.resize(frame, [128], antialias=False)
        frame_thwc = torch.zeros(1, height, width, 3, dtype=torch.uint8)
        length = resize_short_side(frame_thwc, 128, antialias=False, placement="torchvision").shape[2]
        assert resized.shape == (1, 128, length), width
        columns = torch.arange(length).expand(1, 128, length)
        left = int(functional.center_crop(columns, [112, 112])[0, 0, 0])
        assert crop_corners(128, length, 112, 1, "torchvision") == [(8, left)], width
        assert crop_corners(length, 128, 112, 1, "torchvision") == [(left, 8)], width


@pytest.mark.parametrize(("height", "width"), [(360, 640), (224, 398), (398, 224), (240, 320)])
def test_pixels_are_those_of_the_published_preset(height, width):
    preset = pytest.importorskip("torchvision.transforms._presets").VideoClassification(
        crop_size=(224, 224), resize_size=(256,), mean=IMAGENET.mean, std=IMAGENET.std
    )
    frames_thwc = torch.randint(0, 256, (2, height, width, 3), dtype=torch.uint8)
    theirs = preset(frames_thwc.permute(0, 3, 1, 2))  # (3, T, S, S)
    clip, views = apply_protocol("torchvision-15fps-12x1", ClipSpec())
    resized = resize_short_side(frames_thwc, clip.short_side, clip.antialias, views.placement)
    ours = normalize(spatial_crops(resized, clip.size, views.crops, views.placement)[0], IMAGENET)
    a_gray_level = 1 / (255 * min(IMAGENET.std))
    assert (ours - theirs).abs().max() < 1.01 * a_gray_level
