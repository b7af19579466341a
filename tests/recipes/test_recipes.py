"""The bundled model's recipe is the one that made the bundled model."""

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest

from videoswin.data.camera_path import LABELS, MotionRange, camera_path, reversed_label
from videoswin.data.compression import write_h264
from videoswin.data.scenes import load_photo
from videoswin.data.virtual_camera import looked_up, to_pixels, view_from_base
from videoswin.predict import Predictor
from videoswin.recipes import RECIPES
from videoswin.recipes.camera_motion import camera_motion
from videoswin.weights.checkpoint import BUNDLED, Checkpoint


def test_it_is_known_by_its_name():
    assert RECIPES["camera-motion"]().name == "camera-motion"


def test_its_first_item_is_what_its_clip_spec_says():
    recipe = camera_motion()
    clips, labels = recipe.data.clips(recipe.run.seed)[0]
    clip = recipe.data.clip
    assert clips.shape == (len(labels), 3, clip.frames, clip.size, clip.size)


def test_it_trains_for_as_many_items_as_there_are():
    recipe = camera_motion()
    assert len(recipe.data.clips(0)) == recipe.schedule.steps * recipe.data.items_per_step


ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def bundled() -> Checkpoint:
    return Checkpoint.load("camera-motion")


def test_the_bundled_model_comes_from_this_recipe(bundled):
    recipe = camera_motion()
    assert bundled.lineage["command"] == recipe.run.command
    assert bundled.config == recipe.model.config
    assert bundled.clip == recipe.data.clip
    assert bundled.views == recipe.data.views
    assert list(bundled.labels) == list(recipe.data.labels)


def test_the_bundled_file_is_the_one_that_was_measured_and_meets_its_bars():
    results = json.loads((ROOT / "benchmarks" / "results" / "camera-motion.json").read_text())
    assert (
        hashlib.sha256((BUNDLED / "camera-motion.safetensors").read_bytes()).hexdigest() == results["sha256"]
    )
    assert results["photos"]["accuracy"] >= 0.98
    assert results["real"]["accuracy"] >= 0.95
    assert min(results[source]["answer_reversed"] for source in ("photos", "real")) >= 0.97


def test_the_bundled_file_is_small():
    assert (BUNDLED / "camera-motion.safetensors").stat().st_size < 8_000_000


@pytest.mark.parametrize("label", LABELS)
@pytest.mark.parametrize("backwards", [False, True])
def test_the_bundled_model_names_every_movement_in_a_file(bundled, label, backwards, tmp_path):
    """Two seconds of a steady camera over a photograph that it was not trained on, forth and back."""
    motion = MotionRange(slowest=0.2, fastest=0.2, shake=0.0, easing=0.0)
    poses = camera_path(np.random.default_rng(0), LABELS.index(label), np.arange(60) / 30, 2.0, motion)
    view = view_from_base(poses, 4 / 3, width=4 / 3)
    film = looked_up(
        load_photo("coffee.png"), np.diag([0.8, 1.2, 1.0]) @ view, (192, 256), outside="reflection"
    )
    write_h264(tmp_path / "film.mp4", to_pixels(film.flip(0) if backwards else film), fps=30, crf=28)
    answer, _ = Predictor(bundled, device="cpu")(tmp_path / "film.mp4").top(1)[0]
    assert answer == (LABELS[reversed_label(LABELS.index(label))] if backwards else label)
