import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from videoswin.camera_motion.camera import LABELS
from videoswin.video.augment import (
    ClipAugment,
    augment_clip,
    mirrored_pairs,
    random_crop_box,
    reads_direction,
)
from videoswin.video.rand_augment import adjust_contrast, adjust_hue, equalize, jitter_color
from videoswin.video.views import resize_short_side
from videoswin.weights.catalog import load_labels

STILL = ClipAugment(scale=(1.0, 1.0), ratio=(1.0, 1.0), hflip=0.0)
"""Takes the central square of a frame and changes nothing else."""
EVERYTHING = ClipAugment(short_side=40, color_jitter=0.4, rand_augment=4)


def frames_thwc(count=5, height=48, width=64, seed=0):
    rng = np.random.default_rng(seed)
    return torch.from_numpy(rng.integers(0, 256, (count, height, width, 3), dtype=np.uint8))


def augmented(frames, plan, seed=0, size=32, antialias=False):
    return augment_clip(frames, size, plan, np.random.default_rng(seed), antialias=antialias)


@pytest.mark.parametrize("plan", [ClipAugment(), EVERYTHING])
@pytest.mark.parametrize("antialias", [False, True])
def test_a_training_clip_is_a_square_of_bytes_and_the_decoded_frames_stay(plan, antialias):
    frames = frames_thwc()
    before = frames.clone()
    for seed in range(8):
        clip, mirrored = augmented(frames, plan, seed, antialias=antialias)
        assert clip.shape == (3, 5, 32, 32)
        assert clip.dtype == torch.uint8
        assert isinstance(mirrored, bool)
        assert torch.equal(frames, before)


def test_equal_frames_stay_equal_whatever_is_done_to_them():
    frames = frames_thwc(1).expand(6, -1, -1, -1)
    plan = ClipAugment(color_jitter=0.4, rand_augment=4)
    for seed in range(40):
        clip, _ = augmented(frames, plan, seed)
        assert torch.equal(clip, clip[:, :1].expand_as(clip))


def test_a_clip_depends_on_its_generator_alone():
    clips = [augmented(frames_thwc(), EVERYTHING, seed)[0] for seed in (3, 3, 4)]
    assert torch.equal(clips[0], clips[1])
    assert not torch.equal(clips[0], clips[2])


def test_a_clip_that_nothing_is_done_to_is_the_central_square():
    frames = frames_thwc(height=32, width=50)
    clip, mirrored = augmented(frames, STILL)
    assert not mirrored
    assert torch.equal(clip, frames[:, :, 9:41].permute(3, 0, 1, 2))


def test_a_mirrored_clip_says_so():
    frames = frames_thwc(height=32, width=32)
    plan = ClipAugment(scale=(1.0, 1.0), ratio=(1.0, 1.0), hflip=0.5)
    straight = frames.permute(3, 0, 1, 2)
    said = []
    for seed in range(40):
        clip, mirrored = augmented(frames, plan, seed)
        assert torch.equal(clip, straight.flip(3) if mirrored else straight)
        said.append(mirrored)
    assert 10 < sum(said) < 30
    assert not any(augmented(frames, STILL, seed)[1] for seed in range(20))


def test_the_short_side_is_resized_before_the_crop():
    frames = frames_thwc(height=90, width=120)
    plan = ClipAugment(short_side=45, hflip=0.0)
    smaller = resize_short_side(frames, 45, antialias=False)
    for seed in range(5):
        ours, _ = augmented(frames, plan, seed)
        assert torch.equal(ours, augmented(smaller, ClipAugment(hflip=0.0), seed)[0])


@settings(max_examples=200)
@given(
    height=st.integers(2, 300),
    width=st.integers(2, 300),
    least=st.floats(0.05, 1.0),
    shape=st.sampled_from([(3 / 4, 4 / 3), (1.0, 1.0), (0.5, 0.6), (1.5, 2.5)]),
    seed=st.integers(0, 9),
)
def test_every_crop_lies_inside_the_frame(height, width, least, shape, seed):
    rng = np.random.default_rng(seed)
    top, left, high, wide = random_crop_box(height, width, (least, 1.0), shape, rng)
    assert 0 <= top < top + high <= height
    assert 0 <= left < left + wide <= width


def test_crops_have_the_area_and_the_ratio_asked_for():
    rng = np.random.default_rng(0)
    boxes = np.array([random_crop_box(500, 600, (0.1, 0.3), (0.8, 1.5), rng) for _ in range(2000)])
    high, wide = boxes[:, 2], boxes[:, 3]
    area, ratio = high * wide / 300_000, wide / high
    assert 0.099 < area.min() < 0.102
    assert 0.298 < area.max() < 0.301
    assert np.median(area) == pytest.approx(0.2, abs=0.01)
    assert 0.79 < ratio.min() < 0.82
    assert 1.47 < ratio.max() < 1.51
    assert np.median(ratio) == pytest.approx((0.8 * 1.5) ** 0.5, abs=0.03)
    assert boxes[:, 0].min() < 10
    assert boxes[:, 1].min() < 10
    assert (boxes[:, 0] + high).max() > 490
    assert (boxes[:, 1] + wide).max() > 590


def test_a_crop_may_lie_at_either_edge():
    rng = np.random.default_rng(0)
    boxes = [random_crop_box(4, 5, (0.2, 0.2), (1.0, 1.0), rng) for _ in range(300)]
    assert {box[2:] for box in boxes} == {(2, 2)}
    assert {box[:2] for box in boxes} == {(top, left) for top in range(3) for left in range(4)}


def test_color_jitter_makes_each_of_four_changes_once_in_any_order(monkeypatch):
    made = []
    for name in ("brightness", "contrast", "saturation", "hue"):
        monkeypatch.setattr(
            f"videoswin.video.rand_augment.adjust_{name}",
            lambda frames, amount, name=name: made.append((name, amount)) or frames,
        )
    orders = set()
    amounts = {"brightness": [], "contrast": [], "saturation": [], "hue": []}
    for seed in range(400):
        made.clear()
        jitter_color(torch.zeros(1, 3, 2, 2), 0.4, np.random.default_rng(seed))
        assert sorted(name for name, _ in made) == sorted(amounts)
        orders.add(tuple(name for name, _ in made))
        for name, amount in made:
            amounts[name].append(amount)
    assert len(orders) == 24
    for name in ("brightness", "contrast", "saturation"):
        assert 0.6 <= min(amounts[name]) < 0.61
        assert 1.39 < max(amounts[name]) <= 1.4
    assert -0.1 <= min(amounts["hue"]) < -0.099
    assert 0.099 < max(amounts["hue"]) <= 0.1


def test_color_jitter_of_no_strength_changes_colors_by_rounding_at_most():
    frames = frames_thwc().permute(0, 3, 1, 2)
    same = jitter_color(frames, 0.0, np.random.default_rng(0))
    assert (same.int() - frames.int()).abs().max() <= 1


def test_hue_turns_red_into_green_and_back():
    red = torch.tensor([200, 10, 10], dtype=torch.uint8).view(1, 3, 1, 1)
    green = adjust_hue(red, 1 / 3)
    assert green.flatten().tolist() == [10, 200, 10]
    assert torch.equal(adjust_hue(green, -1 / 3), red)
    gray = torch.full((1, 3, 2, 2), 77, dtype=torch.uint8)
    assert torch.equal(adjust_hue(gray, 0.2), gray)


def test_what_is_measured_is_measured_in_each_frame():
    dark, light = frames_thwc(1) // 4, 192 + frames_thwc(1, seed=1) // 4
    both = torch.cat([dark, light]).permute(0, 3, 1, 2)
    for change in (lambda frames: adjust_contrast(frames, 0.0), equalize):
        apart = torch.cat([change(frame[None]) for frame in both])
        assert torch.equal(change(both), apart)
    assert int(adjust_contrast(both, 0.0)[1].min()) > 190


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"hflip": 1.5}, "hflip must be from 0 to 1, got 1.5"),
        ({"random_erasing": -0.1}, "random_erasing must be from 0 to 1, got -0.1"),
        ({"color_jitter": float("nan")}, "color_jitter must be from 0 to 1, got nan"),
        ({"rand_magnitude": 11.0}, "rand_magnitude must be from 0 to 10, got 11.0"),
        ({"scale": (0.0, 1.0)}, r"scale must be \(min, max\) with 0 < min <= max <= 1, got \(0.0, 1.0\)"),
        ({"scale": (0.5, 1.5)}, r"scale must be \(min, max\) with 0 < min <= max <= 1, got \(0.5, 1.5\)"),
        ({"ratio": (2.0, 1.0)}, r"ratio must be \(min, max\) with 0 < min <= max, got \(2.0, 1.0\)"),
    ],
)
def test_an_impossible_setting_is_refused(setting, message):
    with pytest.raises(ValueError, match=message):
        ClipAugment(**setting)


@pytest.mark.parametrize(
    "label",
    [
        "turning right",
        "pan left",
        "Pulling something from left to right",
        "swipe_left",
        "TurnLeft",
        "left-handed serve",
        "moving leftwards",
        "Turning Hand Clockwise",
        "counter-clockwise",
        "Turning Hand Counterclockwise",
        "anti clockwise",
        "playing right back",  # a false alarm, and cheap
    ],
)
def test_a_label_with_a_direction_is_recognized(label):
    assert reads_direction(label)


@pytest.mark.parametrize("label", ["bright light", "copyright", "cleft lip", "leftover food", "zoom in", ""])
def test_a_label_without_a_direction_is_left_alone(label):
    assert not reads_direction(label)


def test_few_labels_of_kinetics_and_seven_of_something_read_a_direction():
    assert sum(map(reads_direction, load_labels("kinetics400"))) == 0
    assert sum(map(reads_direction, load_labels("something-v2"))) == 7


def test_labels_that_differ_by_left_and_right_are_paired():
    assert mirrored_pairs(LABELS) == (("pan left", "pan right"), ("roll left", "roll right"))
    assert mirrored_pairs(load_labels("something-v2")) == (
        ("Pulling something from left to right", "Pulling something from right to left"),
        ("Pushing something from left to right", "Pushing something from right to left"),
        (
            "Turning the camera left while filming something",
            "Turning the camera right while filming something",
        ),
    )


def test_labels_that_differ_by_the_sense_of_rotation_are_paired_in_any_spelling():
    assert mirrored_pairs(["Turn Clockwise", "turn-counter-clockwise"]) == (
        ("Turn Clockwise", "turn-counter-clockwise"),
    )
    assert mirrored_pairs(["spin counterclockwise", "spin clockwise"]) == (
        ("spin counterclockwise", "spin clockwise"),
    )


def test_labels_without_a_partner_are_not_paired():
    assert mirrored_pairs(["pan left", "tilt right", "zoom 1", "zoom 2", "playing right back"]) == ()
