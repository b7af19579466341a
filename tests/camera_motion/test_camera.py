"""The nine camera movements: their effect on the image, and their mirrored and reversed labels."""

import numpy as np
import pytest
import torch
from torch import Tensor

from videoswin.camera_motion.camera import (
    LABELS,
    MotionRange,
    camera_path,
    ease,
    hand_shake,
    mirrored_label,
    reversed_label,
    transposed_label,
    view_from_base,
    warp,
)

TIMES = np.arange(8) / 4
STEADY = MotionRange(slowest=0.1, fastest=0.1, shake=0.0, easing=0.0)
LIGHTS = ((0.5, 0.0), (-0.25, -0.25))
"""A light right of the middle and one up left, as (x, y) in -1..1, y down."""


def video(label: str) -> Tensor:
    """What a steady camera sees of the two lights, each in its own channel: (8, 2, 64, 64)."""
    line = (torch.arange(256) + 0.5) / 128 - 1
    scene = torch.stack([torch.exp(-((line[:, None] - y) ** 2 + (line - x) ** 2) / 0.005) for x, y in LIGHTS])
    poses = camera_path(np.random.default_rng(0), LABELS.index(label), TIMES, 2.0, STEADY)
    return warp(scene, np.diag([2.0, 2.0, 1.0]) @ view_from_base(poses, 1.0), (64, 64), outside="zeros")


def ends(frames: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Where the lights are in the first and the last frame, as complex x + iy, y down: two of (2,)."""
    line = (torch.arange(64) + 0.5) / 32 - 1
    weights = frames / frames.sum((2, 3), keepdim=True)
    places = (weights * line).sum((2, 3)) + 1j * (weights * line[:, None]).sum((2, 3))  # (T, 2)
    return places[0].numpy(), places[-1].numpy()


@pytest.mark.parametrize(
    ("label", "slides"),
    [("static", 0), ("pan right", -0.35), ("pan left", 0.35), ("tilt up", 0.35j), ("tilt down", -0.35j)],
)
def test_the_picture_slides_against_the_camera(label, slides):
    before, after = ends(video(label))
    np.testing.assert_allclose(after - before, slides, atol=0.01)


@pytest.mark.parametrize(("label", "grows"), [("zoom in", np.exp(0.175)), ("zoom out", np.exp(-0.175))])
def test_the_picture_grows_as_the_camera_zooms_in(label, grows):
    before, after = ends(video(label))
    np.testing.assert_allclose(after / before, grows, atol=0.01)


@pytest.mark.parametrize(("label", "clockwise"), [("roll left", 1), ("roll right", -1)])
def test_the_picture_turns_clockwise_as_the_camera_rolls_left(label, clockwise):
    before, after = ends(video(label))
    # With y down, growing angles turn clockwise to the eye.
    turned = clockwise * np.angle(after / before)
    assert ((turned > 0.17) & (turned < 0.27)).all()


def closest_label(frames: Tensor) -> int:
    """The movement whose own video these frames resemble most in where the lights go, from any start."""
    before, after = ends(frames)
    return min(range(9), key=lambda label: np.abs(after - moved(LABELS[label], before)).sum())


def moved(label: str, places: np.ndarray) -> np.ndarray:
    before, after = ends(video(label))
    turned = (after[0] - after[1]) / (before[0] - before[1])
    return turned * places + (after[0] - turned * before[0])


@pytest.mark.parametrize("label", range(9))
@pytest.mark.parametrize(
    ("change", "changed_label"),
    [
        (lambda frames: frames.flip(0), reversed_label),
        (lambda frames: frames.flip(3), mirrored_label),
        (lambda frames: frames.transpose(2, 3), transposed_label),
    ],
    ids=["reversed", "mirrored", "transposed"],
)
def test_a_changed_clip_has_the_changed_label(label, change, changed_label):
    assert closest_label(change(video(LABELS[label]))) == changed_label(label)


def test_labels_are_in_the_promised_order():
    expected = "static, pan left, pan right, tilt up, tilt down, zoom in, zoom out, roll left, roll right"
    assert ", ".join(LABELS) == expected


@pytest.mark.parametrize("seed", range(30))
def test_eased_movement_never_turns_back_and_arrives(seed):
    progress = ease(np.random.default_rng(seed), np.linspace(0, 1, 61))
    assert progress[0] == pytest.approx(0)
    assert progress[-1] == pytest.approx(1)
    assert (np.diff(progress) >= 0).all()


def test_hand_shake_stays_far_below_the_slowest_movement():
    times = np.arange(60) / 30
    travel = [np.ptp(hand_shake(np.random.default_rng(seed), times, 0.01), axis=0) for seed in range(300)]
    # The slowest movement of the full difficulty goes 9 % of the view in two seconds.
    assert np.quantile(travel, 0.99) < 0.09
    assert np.median(travel) < 0.03
