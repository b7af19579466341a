"""Synthetic clips: shapes, seeds, the split by photograph, and correct labels."""

import numpy as np
import pytest
import torch

from videoswin._errors import MissingPackageError
from videoswin.camera_motion.camera import LABELS, reversed_label
from videoswin.camera_motion.clips import CameraMotionClips, Difficulty, random_orientation, render_clip
from videoswin.camera_motion.scenes import TEST_PHOTOS, TRAIN_PHOTOS, Scenery, load_photo, soft_blobs
from videoswin.data.dataset import Draw

SEED = 5


@pytest.fixture(scope="module")
def clips() -> CameraMotionClips:
    return CameraMotionClips(length=100, easy=0, hard=1, seed=SEED, frames=8, size=64)


def test_without_its_photographs_the_extra_is_named(monkeypatch):
    def missing(module):
        raise ModuleNotFoundError(f"No module named {module!r}", name="skimage")

    monkeypatch.setattr("videoswin._errors.import_module", missing)
    with pytest.raises(MissingPackageError, match=r"pip install 'videoswin\[camera-motion\]'"):
        load_photo("coffee.png")


def test_an_item_is_four_uint8_clips_and_their_labels(clips):
    four, labels, failure = clips[Draw(0, 3)]
    assert four.shape == (4, 3, 8, 64, 64)
    assert four.dtype == torch.uint8
    assert labels.shape == (4,)
    assert failure is None


def test_an_item_depends_on_its_seed_and_draw_alone(clips):
    again = CameraMotionClips(length=100, easy=0, hard=1, seed=SEED, frames=8, size=64)
    other = CameraMotionClips(length=100, easy=0, hard=1, seed=SEED + 1, frames=8, size=64)
    again[Draw(0, 0)]
    draw, next_epoch = Draw(0, 7), Draw(1, 7)
    item = clips[draw]
    assert torch.equal(again[draw].targets, item.targets)
    assert (again[draw].clips.int() - item.clips.int()).abs().float().mean() < 1  # see through_h264
    assert not torch.equal(other[draw].clips, item.clips)
    assert not torch.equal(clips[next_epoch].clips, item.clips)


def test_the_first_epoch_is_the_training_data_of_the_bundled_model():
    easy = CameraMotionClips(length=100, easy=1000, hard=2000, seed=SEED, frames=8, size=64)
    items = [easy[Draw(0, index)] for index in range(6)]
    assert [item.targets.tolist() for item in items] == [
        [6, 5, 6, 5],
        [2, 3, 2, 4],
        [7, 8, 7, 8],
        [8, 7, 7, 8],
        [6, 5, 6, 5],
        [4, 1, 4, 1],
    ]
    levels = [49667188, 57001268, 45562888, 55808972, 56411624, 47135592]
    assert [int(item.clips.long().sum()) for item in items] == pytest.approx(levels, rel=1e-4)


def test_every_movement_turns_up(clips):
    labels = torch.cat([clips[Draw(0, index)].targets for index in range(24)])
    assert set(labels.tolist()) == set(range(len(LABELS)))


def test_difficulty_rises_with_hardness():
    easy, half, hard = Difficulty.at(0), Difficulty.at(0.5), Difficulty.at(1)
    assert easy.motion.slowest > half.motion.slowest > hard.motion.slowest
    assert easy.compression == easy.foreground == easy.motion.shake == 0
    assert hard.motion.slowest < 0.06
    assert hard.motion.fastest > 0.45


def test_no_photograph_is_trained_on_and_tested_with():
    assert not set(TRAIN_PHOTOS) & set(TEST_PHOTOS)


@pytest.mark.parametrize("name", TRAIN_PHOTOS + TEST_PHOTOS)
def test_every_photograph_is_in_the_wheel(name):
    photo = load_photo(name)
    assert photo.shape[0] == 3
    assert 0 <= photo.min() < photo.max() <= 1


def test_turning_about_reaches_six_orientations(clips):
    clip = torch.arange(3 * 2 * 4 * 4, dtype=torch.uint8).view(3, 2, 4, 4)
    rng = np.random.default_rng(0)
    seen = {
        random_orientation(rng, clip, LABELS.index("pan left"))[0].contiguous().numpy().tobytes()
        for _ in range(200)
    }
    assert len(seen) == 6


def test_turning_about_keeps_a_still_camera_still():
    rng = np.random.default_rng(0)
    clip = torch.zeros(3, 2, 4, 4)
    assert {random_orientation(rng, clip, LABELS.index("static"))[1] for _ in range(50)} == {0}


def test_easy_pans_can_be_measured_to_go_where_the_label_says():
    """The shift that matches the first two frames best is against the camera's movement."""
    scenery = Scenery([load_photo("camera.png")], textures=0.0)
    for seed, label in enumerate(["pan left", "pan right"] * 3):
        rng = np.random.default_rng(seed)
        clip = render_clip(rng, scenery, LABELS.index(label), Difficulty.at(0), frames=8, size=64).float()
        first, second = clip[:, 0, :, 12:-12], clip[:, 1]
        errors = {by: float((second[:, :, 12 + by : 52 + by] - first).abs().mean()) for by in range(-12, 13)}
        slides = min(errors, key=errors.__getitem__)
        assert np.sign(slides) == (1 if label == "pan left" else -1)


@pytest.mark.parametrize("coverage", [0.2, 0.5])
def test_blobs_cover_about_what_they_should(coverage):
    rng = np.random.default_rng(0)
    assert np.mean([float(soft_blobs(rng, 64, coverage).mean()) for _ in range(100)]) == pytest.approx(
        coverage, abs=0.1
    )


def test_reversing_twice_changes_nothing():
    assert [reversed_label(reversed_label(label)) for label in range(9)] == list(range(9))
