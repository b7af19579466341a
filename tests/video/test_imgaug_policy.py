"""The policy of imgaug 0.4.0, against what imgaug itself made of one picture at m=7.

imgaug_0.4.0.npz has the pictures that its functions gave for `picture()`, with + and - where the sign is
drawn; the 18 operations of imgaug.augmenters.RandAugment(n=4, m=7) gave nothing else in 12 runs each, cutout
aside.
"""

from pathlib import Path

import numpy as np
import pytest
import torch

from videoswin.video.augment import ClipAugment, augment_clip
from videoswin.video.imgaug_policy import IMGAUG_OPERATIONS, blur, cutout, imgaug_rand_augment

GOLDEN = np.load(Path(__file__).parent / "imgaug_0.4.0.npz")
LEVEL = 7 / 30


def picture(side=24):
    y, x = np.mgrid[:side, :side]
    channels = [(x * x + 3 * y) % 256, (5 * x + 7 * y + x * y) % 256, (x * y * 3 + 40) % 200]
    return np.stack(channels, -1).astype(np.uint8)


def as_frames(image, count=2):
    frames = torch.from_numpy(image).permute(2, 0, 1).expand(count, -1, -1, -1)
    return frames.contiguous(memory_format=torch.channels_last)


class Signs:
    """A generator that draws one sign."""

    def __init__(self, sign):
        self.sign = sign

    def random(self):
        return 0.0 if self.sign == "+" else 0.9


def test_the_operations_are_those_of_imgaug():
    assert {name.rstrip("+-") for name in GOLDEN} | {"cutout"} == set(IMGAUG_OPERATIONS)


@pytest.mark.parametrize("name", GOLDEN)
def test_operation_gives_what_imgaug_gave(name):
    frames = as_frames(picture())
    changed = IMGAUG_OPERATIONS[name.rstrip("+-")](frames, LEVEL, Signs(name[-1]))
    assert torch.equal(frames, as_frames(picture()))
    assert changed.is_contiguous(memory_format=torch.channels_last)
    expected = as_frames(GOLDEN[name])
    different = (changed != expected).any(1)  # (T, H, W)
    if name.startswith("rotate"):  # Pillow steps from pixel to pixel in 16-bit fractions
        assert different.sum(dim=(1, 2)).max() <= 2
    elif name.startswith(("autocontrast", "saturation", "contrast", "brightness", "sharpness")):
        # Pillow rounds some of these to nearest, torchvision down.
        assert (changed.int() - expected.int()).abs().max() <= 1
    else:
        assert not different.any()


def test_posterize_keeps_128_levels_and_translation_is_of_7_7_percent():
    levels = as_frames(np.arange(256, dtype=np.uint8).reshape(16, 16, 1).repeat(3, 2))
    assert len(IMGAUG_OPERATIONS["posterize"](levels, LEVEL, None).unique()) == 128
    columns = as_frames(np.arange(224, dtype=np.uint8)[None, :, None].repeat(224, 0).repeat(3, 2), 1)
    moved = IMGAUG_OPERATIONS["translate x"](columns, LEVEL, Signs("+"))
    assert moved[0, 0, 0, 100] == 100 - round(0.077 * 224)


def test_cutout_is_a_gray_square_of_15_percent_that_may_reach_over_the_edge():
    frames = torch.zeros(1, 3, 224, 224, dtype=torch.uint8)
    sides = set()
    for seed in range(200):
        rows = cutout(frames, 20 / 32 * LEVEL, np.random.default_rng(seed))[0, 0].eq(128).any(1)
        sides.add(int(rows.sum()))
    assert max(sides) == 33
    assert min(sides) < 30


def test_blur_leaves_the_outermost_two_pixels():
    frames = as_frames(picture())
    changed = blur(frames) != frames
    assert not changed[..., :2, :].any()
    assert not changed[..., -2:].any()


def test_half_of_the_clips_are_mirrored_and_all_frames_alike():
    ramp = as_frames(np.arange(224, dtype=np.uint8)[None, :, None].repeat(8, 0).repeat(3, 2))
    mirrored = 0
    for seed in range(200):
        changed = imgaug_rand_augment(ramp, 0, 7, np.random.default_rng(seed))
        assert torch.equal(changed[0], changed[1])
        mirrored += bool(changed[0, 0, 0, 0] > changed[0, 0, 0, -1])
        assert abs(int(changed[0, 0, 0].max()) - 223) <= 8  # at most 7 pixels are cropped off
    assert 70 <= mirrored <= 130


def test_operations_are_different_ones_and_as_many_as_asked_for(monkeypatch):
    done = []

    def recorder(name):
        return lambda frames, level, rng: done.append(name) or frames

    monkeypatch.setattr(
        "videoswin.video.imgaug_policy.IMGAUG_OPERATIONS",
        {name: recorder(name) for name in IMGAUG_OPERATIONS},
    )
    seen = set()
    for seed in range(100):
        done.clear()
        imgaug_rand_augment(as_frames(picture()), 4, 7, np.random.default_rng(seed))
        assert len(done) == len(set(done)) == 4
        seen.update(done)
    assert seen == set(IMGAUG_OPERATIONS)


def test_policy_is_applied_to_clips_without_calling_them_mirrored():
    plan = ClipAugment(hflip=0.0, rand_augment=4, rand_magnitude=7, rand_policy="imgaug")
    frames = torch.randint(0, 256, (2, 40, 50, 3), dtype=torch.uint8)
    clip, mirrored = augment_clip(frames, 24, plan, np.random.default_rng(1), antialias=False)
    assert clip.shape == (3, 2, 24, 24)
    assert not mirrored


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"rand_magnitude": 11}, "rand_magnitude must be from 0 to 10, got 11"),
        ({"rand_magnitude": 31, "rand_policy": "imgaug"}, "rand_magnitude must be from 0 to 30, got 31"),
        ({"rand_policy": "other"}, "rand_policy must be one of timm, imgaug, got 'other'"),
        ({"rand_augment": 19, "rand_policy": "imgaug"}, "rand_augment must be at most 18, got 19"),
    ],
)
def test_values_out_of_range_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        ClipAugment(**fields)
