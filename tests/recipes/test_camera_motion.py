"""The bundled model's recipe is the one that made the bundled model."""

import pytest

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


def test_the_bundled_file_is_small():
    assert (BUNDLED / "camera-motion.safetensors").stat().st_size < 8_000_000
