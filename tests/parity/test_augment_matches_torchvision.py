"""Our augmentation against torchvision.transforms.v2, and the strengths of RandAugment against timm's.

The frames of a clip of ours are a batch of images to torchvision, the same in memory.
"""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from videoswin.training.losses import mix
from videoswin.video import rand_augment
from videoswin.video.augment import ClipAugment, augment_clip, random_crop_box

v2 = pytest.importorskip("torchvision.transforms.v2")
tv_tensors = pytest.importorskip("torchvision.tv_tensors")
timm_augment = pytest.importorskip("timm.data.auto_augment")
theirs = v2.functional
OPERATIONS = rand_augment.OPERATIONS
BILINEAR = v2.InterpolationMode.BILINEAR


def frames_tchw(count=4, height=60, width=84):
    """Waves, noise, a flat frame, and one of few levels: channels last."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:height, :width]
    waves = [128 + 100 * np.sin(x / (5 + i) + y / 9) for i in range(3)]
    frames = np.stack([np.stack(waves, -1) + rng.normal(0, 20, (height, width, 3)) for _ in range(count)])
    frames[1] = 97
    frames[2] = rng.integers(0, 256, frames[2].shape)
    frames[3] = np.where(rng.random(frames[3].shape) < 0.001, 200, 100)
    return torch.from_numpy(frames.clip(0, 255).astype(np.uint8)).permute(0, 3, 1, 2)


def largest_difference(ours, other):
    assert ours.dtype == other.dtype == torch.uint8
    assert ours.shape == other.shape
    return int((ours.int() - other.int()).abs().max())


@pytest.mark.parametrize("bits", range(9))
def test_posterize_is_equal(bits):
    assert torch.equal(rand_augment.posterize(frames_tchw(), bits), theirs.posterize(frames_tchw(), bits))


@pytest.mark.parametrize("threshold", [0, 1, 76.8, 128, 255])
def test_solarize_is_equal(threshold):
    assert torch.equal(
        rand_augment.solarize(frames_tchw(), threshold), theirs.solarize(frames_tchw(), threshold)
    )


def test_invert_and_autocontrast_and_equalize_are_equal():
    frames = frames_tchw()
    assert torch.equal(rand_augment.invert(frames), theirs.invert(frames))
    assert torch.equal(rand_augment.autocontrast(frames), theirs.autocontrast(frames))
    assert torch.equal(rand_augment.equalize(frames), theirs.equalize(frames))


@pytest.mark.parametrize("factor", [0.0, 0.1, 0.37, 1.0, 1.63, 1.9])
def test_brightness_and_saturation_and_sharpness_are_equal(factor):
    frames = frames_tchw()
    assert torch.equal(
        rand_augment.adjust_brightness(frames, factor), theirs.adjust_brightness(frames, factor)
    )
    assert torch.equal(
        rand_augment.adjust_saturation(frames, factor), theirs.adjust_saturation(frames, factor)
    )
    assert torch.equal(rand_augment.adjust_sharpness(frames, factor), theirs.adjust_sharpness(frames, factor))


@pytest.mark.parametrize("factor", [0.0, 0.1, 0.37, 1.0, 1.63, 1.9])
def test_contrast_is_equal_frame_by_frame(factor):
    frames = frames_tchw()
    ours = rand_augment.adjust_contrast(frames, factor)
    for frame, our_frame in zip(frames, ours, strict=True):
        # A level at most: the mean is summed in another order, and the result is cut, not rounded.
        assert largest_difference(our_frame, theirs.adjust_contrast(frame, factor)) <= 1
    assert (ours != theirs.adjust_contrast(frames, factor)).float().mean() < 0.001


@pytest.mark.parametrize("turn", [-0.5, -0.1, 0.0, 0.025, 1 / 3, 0.5])
def test_hue_is_equal_to_a_level(turn):
    frames = frames_tchw()
    # A level at most: ours rounds to nearest, theirs cuts 0..1 into 256 equal parts.
    assert largest_difference(rand_augment.adjust_hue(frames, turn), theirs.adjust_hue(frames, turn)) <= 1


def test_a_hue_turned_by_nothing_or_by_a_third_is_exact():
    red, green, blue = frames_tchw().unbind(1)
    assert torch.equal(rand_augment.adjust_hue(frames_tchw(), 0.0), frames_tchw())
    assert (
        largest_difference(rand_augment.adjust_hue(frames_tchw(), 1 / 3), torch.stack([blue, red, green], 1))
        == 0
    )


def filled(frames, transform, **options):
    """Theirs with fill 128, by filling with zeros around what is shifted by 128.

    Its own `fill` weighs the pixels at the seam twice by the part of them that is inside.
    """
    return transform(frames.float() - 128, interpolation=BILINEAR, **options).add(128).round().to(torch.uint8)


@pytest.mark.parametrize("degrees", [-30.0, -7.3, 0.0, 3.0, 21.0])
def test_rotation_is_equal_to_a_level(degrees):
    frames = frames_tchw()
    ours = rand_augment.rotate(frames, degrees)
    # A level at most, rarely: the place is computed in another order, and the result rounded.
    other = filled(frames, theirs.rotate, angle=degrees)
    assert largest_difference(ours, other) <= 1
    assert (ours != other).float().mean() < 0.01
    inside = theirs.rotate(torch.ones(1, 60, 84), degrees, interpolation=BILINEAR) > 0.9999
    outside = theirs.rotate(torch.ones(1, 60, 84), degrees, interpolation=BILINEAR) == 0
    other = theirs.rotate(frames, degrees, interpolation=BILINEAR, fill=[128.0] * 3)
    where = (inside | outside).expand_as(frames)
    assert largest_difference(ours[where], other[where]) <= 1


@pytest.mark.parametrize("slope", [-0.3, -0.11, 0.0, 0.07, 0.3])
def test_shearing_is_equal_to_a_level(slope):
    frames = frames_tchw()
    degrees = float(np.degrees(np.arctan(slope)))
    still = {"angle": 0.0, "translate": [0, 0], "scale": 1.0, "center": [0.0, 0.0]}
    # To a level, as rotation.
    x = filled(frames, theirs.affine, shear=[degrees, 0.0], **still)
    assert largest_difference(rand_augment.shear_x(frames, slope), x) <= 1
    y = filled(frames, theirs.affine, shear=[0.0, degrees], **still)
    assert largest_difference(rand_augment.shear_y(frames, slope), y) <= 1


@pytest.mark.parametrize("part", [-0.45, -0.1, 0.0, 0.2, 0.45])
def test_translation_is_equal(part):
    frames = frames_tchw()
    still = {"angle": 0.0, "scale": 1.0, "shear": [0.0, 0.0], "fill": [128.0] * 3}
    x = theirs.affine(frames, translate=[round(part * 84), 0], **still)
    assert torch.equal(rand_augment.translate_x(frames, part), x)
    y = theirs.affine(frames, translate=[0, round(part * 60)], **still)
    assert torch.equal(rand_augment.translate_y(frames, part), y)


TIMM_NAMES = {
    "rotate": "Rotate",
    "posterize": "PosterizeIncreasing",
    "solarize": "SolarizeIncreasing",
    "solarize add": "SolarizeAdd",
    "saturation": "ColorIncreasing",
    "contrast": "ContrastIncreasing",
    "brightness": "BrightnessIncreasing",
    "sharpness": "SharpnessIncreasing",
    "shear x": "ShearX",
    "shear y": "ShearY",
    "translate x": "TranslateXRel",
    "translate y": "TranslateYRel",
    "autocontrast": "AutoContrast",
    "equalize": "Equalize",
    "invert": "Invert",
}


def test_the_operations_are_those_of_timm():
    assert set(TIMM_NAMES) == set(OPERATIONS)
    assert set(TIMM_NAMES.values()) == set(timm_augment._RAND_INCREASING_TRANSFORMS)


WHOLE = ["posterize", "solarize", "solarize add", "invert"]
"""Operations of whole levels: timm's pixels can be had too."""


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize(
    "name", [name for name in OPERATIONS if OPERATIONS[name].strongest and name not in WHOLE]
)
def test_the_strength_of_every_operation_is_that_of_timm(name, sign, monkeypatch):
    monkeypatch.setattr(timm_augment, "_randomly_negate", lambda value: sign * value)
    for magnitude in np.linspace(0, 10, 41):
        (other,) = timm_augment.LEVEL_TO_ARG[TIMM_NAMES[name]](magnitude, {})
        assert OPERATIONS[name].amount(magnitude / 10, sign) == pytest.approx(other), magnitude


@pytest.mark.parametrize("name", WHOLE)
def test_pixels_of_whole_levels_are_those_of_timm_at_every_strength(name):
    frame = frames_tchw()[:1]
    image = theirs.to_pil_image(frame[0])
    level_to_arg = timm_augment.LEVEL_TO_ARG[TIMM_NAMES[name]] or (lambda *args: ())
    for magnitude in (0.0, 0.3, 2.6, 5.0, 6.9, 7.0, 7.1, 9.9, 10.0):
        ours = OPERATIONS[name].apply(frame, OPERATIONS[name].amount(magnitude / 10, 1))
        other = timm_augment.NAME_TO_OP[TIMM_NAMES[name]](image, *level_to_arg(magnitude, {}))
        assert torch.equal(ours[0], theirs.pil_to_tensor(other)), magnitude


@pytest.mark.parametrize("antialias", [False, True])
def test_a_random_resized_crop_shows_what_torchvision_shows(antialias):
    frames = frames_tchw()
    plan = ClipAugment(hflip=0.0)
    for seed in range(20):
        rng = np.random.default_rng(seed)
        ours, _ = augment_clip(frames.permute(0, 2, 3, 1), 48, plan, rng, antialias=antialias)
        box = random_crop_box(60, 84, plan.scale, plan.ratio, np.random.default_rng(seed))
        other = theirs.resized_crop(frames, *box, size=[48, 48], antialias=antialias)
        assert torch.equal(ours.transpose(0, 1), other)


@pytest.mark.parametrize(("height", "width"), [(240, 320), (320, 180), (100, 400)])
def test_random_crops_are_distributed_as_in_torchvision(height, width):
    crop = v2.RandomResizedCrop(10)
    torch.manual_seed(0)
    params = [crop.make_params([torch.zeros(3, height, width)]) for _ in range(3000)]
    other = np.array([[p["top"], p["left"], p["height"], p["width"]] for p in params])
    rng = np.random.default_rng(0)
    ours = np.array([random_crop_box(height, width, (0.08, 1.0), (3 / 4, 4 / 3), rng) for _ in range(3000)])
    for quantile in (0.02, 0.25, 0.5, 0.75, 0.98):
        difference = np.quantile(ours, quantile, axis=0) - np.quantile(other, quantile, axis=0)
        assert np.abs(difference / [height, width, height, width]).max() < 0.03


@pytest.mark.parametrize(("height", "width"), [(20, 400), (400, 20), (900, 1000)])
def test_the_central_crop_of_last_resort_is_that_of_torchvision(height, width):
    torch.manual_seed(0)
    crop = v2.RandomResizedCrop(10, scale=(1.0, 1.0))  # the whole area, in a shape that does not fit
    box = crop.make_params([torch.zeros(3, height, width)])
    rng = np.random.default_rng(0)
    ours = random_crop_box(height, width, (1.0, 1.0), (3 / 4, 4 / 3), rng)
    assert ours == (box["top"], box["left"], box["height"], box["width"])


class Told:
    """A generator that draws what it is told to, in turn."""

    def __init__(self, *draws):
        self.draws = list(draws)

    def beta(self, a, b):
        return self.draws.pop(0)

    def integers(self, high):
        return self.draws.pop(0)


def two_clips():
    """Of two clips torchvision's pairs, neighbors, are ours, opposites."""
    clips = torch.from_numpy(np.random.default_rng(0).normal(size=(2, 3, 4, 20, 30)).astype(np.float32))
    return clips, torch.tensor([[1.0, 0.0, 0.0], [0.0, 0.2, 0.8]])


def mixed_by_torchvision(transform, share, monkeypatch, clips, targets):
    monkeypatch.setattr(transform, "_dist", SimpleNamespace(sample=lambda shape: share))
    mixed, shares = transform(tv_tensors.Video(clips), targets)
    return mixed.as_subclass(torch.Tensor), shares


@pytest.mark.parametrize("share", [0.0, 0.3, 0.85, 1.0])
def test_mixup_is_that_of_torchvision(share, monkeypatch):
    clips, targets = two_clips()
    ours = mix(clips, targets, torch.ones(2), mixup=0.8, cutmix=0.0, rng=Told(share))
    other = mixed_by_torchvision(v2.MixUp(num_classes=3), share, monkeypatch, clips, targets)
    torch.testing.assert_close(ours, other)


@pytest.mark.parametrize("share", [0.0, 0.3, 0.85, 1.0])
@pytest.mark.parametrize(("row", "column"), [(10, 15), (0, 29), (19, 3)])
def test_cutmix_is_that_of_torchvision(share, row, column, monkeypatch):
    clips, targets = two_clips()
    ours = mix(clips, targets, torch.ones(2), mixup=0.0, cutmix=1.0, rng=Told(row, column, share))
    center = {30: column, 20: row}
    monkeypatch.setattr(torch, "randint", lambda high, size: torch.tensor([center[high]]))
    other = mixed_by_torchvision(v2.CutMix(num_classes=3), share, monkeypatch, clips, targets)
    torch.testing.assert_close(ours, other)
