import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.video.corners import crop_corners
from videoswin.video.spec import IMAGENET, PER_CLIP
from videoswin.video.views import normalize, resize_short_side, spatial_crops


@pytest.mark.parametrize(
    ("height", "width", "short_side", "expected"),
    [
        (256, 340, 224, (224, 298)),  # 297.5 rounds up, as mmcv does
        (340, 256, 224, (298, 224)),
        (720, 1280, 256, (256, 455)),
        (100, 100, 224, (224, 224)),
        (1, 7, 2, (2, 14)),
    ],
)
@pytest.mark.parametrize("antialias", [False, True])
def test_the_shorter_side_is_resized_and_the_longer_follows(height, width, short_side, expected, antialias):
    resized = resize_short_side(torch.zeros(2, height, width, 3, dtype=torch.uint8), short_side, antialias)
    assert resized.shape == (2, *expected, 3)
    assert resized.dtype == torch.uint8


def test_frames_that_fit_are_not_touched():
    frames_thwc = torch.randint(0, 256, (2, 64, 80, 3), dtype=torch.uint8)
    assert resize_short_side(frames_thwc, 64, antialias=True) is frames_thwc


def test_a_flat_frame_stays_flat():
    frames_thwc = torch.full((1, 50, 70, 3), 131, dtype=torch.uint8)
    for antialias in (False, True):
        assert (resize_short_side(frames_thwc, 33, antialias) == 131).all()


def test_three_crops_are_left_right_middle():
    assert crop_corners(224, 298, 224, 3) == [(0, 0), (0, 74), (0, 37)]
    assert crop_corners(298, 224, 224, 3) == [(0, 0), (74, 0), (37, 0)]
    assert crop_corners(224, 299, 224, 3) == [(0, 0), (0, 74), (0, 37)]  # the published code's odd pixel
    assert crop_corners(256, 341, 224, 1) == [(16, 58)]


def test_crops_carry_the_pixels_of_their_place():
    column = torch.arange(10, dtype=torch.uint8)
    frames_thwc = column.expand(2, 4, 10)[..., None].expand(2, 4, 10, 3)
    crops = spatial_crops(frames_thwc, 4, 3)
    assert crops.shape == (3, 3, 2, 4, 4)
    assert [crop[0, 0, 0].tolist() for crop in crops] == [[0, 1, 2, 3], [6, 7, 8, 9], [3, 4, 5, 6]]


def test_a_crop_larger_than_the_frame_is_refused():
    with pytest.raises(ValueError, match="at least 24x24 for crops of this size, got 30x20"):
        spatial_crops(torch.zeros(1, 20, 30, 3, dtype=torch.uint8), 24, 1)


@settings(deadline=None)
@given(
    size=st.integers(1, 64),
    extra_height=st.integers(0, 100),
    extra_width=st.integers(0, 100),
    crops=st.sampled_from([1, 3]),
)
def test_crops_lie_inside_the_frame_and_along_the_longer_side(size, extra_height, extra_width, crops):
    height, width = size + extra_height, size + extra_width
    corners = crop_corners(height, width, size, crops)
    assert len(corners) == crops
    assert all(0 <= top <= height - size and 0 <= left <= width - size for top, left in corners)
    assert corners[-1] == ((height - size) // 2, (width - size) // 2)
    across = 0 if width >= height else 1
    assert len({corner[across] for corner in corners}) == 1


def omnivore_corners(height, width, size):
    """uniform_crop of Omnivore, for spatial_idx 0 and 2, and 1 last."""
    y, x = (math.ceil((length - size) / 2) for length in (height, width))
    if height > width:
        return [(0, x), (height - size, x), (y, x)]
    return [(y, 0), (y, width - size), (y, x)]


@given(height=st.integers(24, 200), width=st.integers(24, 200))
def test_crops_of_omnivore_are_those_of_its_code(height, width):
    assert crop_corners(height, width, 24, 3, "omnivore") == omnivore_corners(height, width, 24)


def test_longer_side_of_omnivore_is_rounded_down():
    # short_side_scale of pytorchvideo: int(math.floor((float(w) / h) * size))
    for width in range(240, 960):
        frame_thwc = torch.zeros(1, 240, width, 3, dtype=torch.uint8)
        resized = resize_short_side(frame_thwc, 224, antialias=False, placement="omnivore")
        assert resized.shape[2] == math.floor((float(width) / 240) * 224)


@settings(deadline=None, max_examples=30)
@given(
    height=st.integers(1, 90),
    width=st.integers(1, 90),
    short_side=st.integers(1, 70),
    antialias=st.booleans(),
)
def test_any_frame_can_be_resized_and_cropped(height, width, short_side, antialias):
    resized = resize_short_side(torch.zeros(1, height, width, 3, dtype=torch.uint8), short_side, antialias)
    assert min(resized.shape[1:3]) == short_side
    assert spatial_crops(resized, short_side, 3).shape == (3, 3, 1, short_side, short_side)


@given(height=st.integers(1, 40), width=st.integers(1, 40), frames=st.integers(1, 3), size=st.integers(1, 50))
def test_a_full_frame_is_every_pixel_in_its_place_whatever_the_size_of_the_crops(height, width, frames, size):
    frames_thwc = torch.arange(frames * height * width * 3).view(frames, height, width, 3)
    whole = spatial_crops(frames_thwc, size, "full")
    assert whole.shape == (1, 3, frames, height, width)
    assert torch.equal(whole[0].permute(1, 2, 3, 0), frames_thwc)


def test_imagenet_normalization_is_the_published_one():
    clips = torch.randint(0, 256, (2, 3, 4, 5, 6), dtype=torch.uint8)
    mean = torch.tensor([123.675, 116.28, 103.53]).view(3, 1, 1, 1)
    std = torch.tensor([58.395, 57.12, 57.375]).view(3, 1, 1, 1)
    torch.testing.assert_close(normalize(clips, IMAGENET), (clips.float() - mean) / std)


def test_per_clip_normalization_takes_one_mean_and_std_from_each_clip():
    clips = torch.randint(0, 256, (3, 3, 4, 8, 8), dtype=torch.uint8)
    clips[1] //= 7
    clips[2, 0] = 200
    normalized = normalize(clips, PER_CLIP)
    assert normalized.dtype == torch.float32
    for clip, ours in zip(clips.double(), normalized, strict=True):
        theirs = (clip - clip.mean()) / clip.std(correction=0)
        torch.testing.assert_close(ours, theirs.float(), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("level", [0, 17, 255])
def test_a_blank_clip_becomes_zeros_and_not_nan(level):
    clips = torch.full((1, 3, 2, 4, 4), level, dtype=torch.uint8)
    assert normalize(clips, PER_CLIP).abs().max() < 1e-4


def test_a_single_clip_needs_no_batch_axis():
    clip = torch.randint(0, 256, (3, 4, 8, 8), dtype=torch.uint8)
    for normalization in (IMAGENET, PER_CLIP):
        assert torch.equal(normalize(clip, normalization), normalize(clip[None], normalization)[0])


def test_pixels_in_another_order_are_refused():
    with pytest.raises(ValueError, match=r"clips must have shape \(\.\.\., 3, T, H, W\), got \(4, 8, 8, 3\)"):
        normalize(torch.zeros(4, 8, 8, 3), IMAGENET)
