"""The recipe of the bundled model has the settings that the model was trained with."""

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest

from videoswin.acceleration import resolve_device
from videoswin.camera_motion.camera import (
    LABELS,
    MotionRange,
    camera_path,
    reversed_label,
    to_pixels,
    view_from_base,
    warp,
)
from videoswin.camera_motion.clips import write_h264
from videoswin.camera_motion.recipe import camera_motion
from videoswin.camera_motion.scenes import load_photo
from videoswin.data.dataset import Draw
from videoswin.inference.predictor import Predictor
from videoswin.recipes import build_recipe
from videoswin.recipes.autoconfig import natural_precision
from videoswin.training.recipe import Augment
from videoswin.weights.catalog import BUNDLED
from videoswin.weights.checkpoint import Checkpoint


def test_the_recipe_is_found_by_its_name():
    assert build_recipe("camera-motion") == camera_motion()


def test_the_first_item_has_the_shape_of_the_clip_spec():
    recipe = camera_motion()
    clips, labels, _ = recipe.data.clips(recipe.run.seed)[Draw(0, 0)]
    clip = recipe.data.clip
    assert clips.shape == (len(labels), 3, clip.frames, clip.size, clip.size)


def test_it_trains_for_6000_steps_of_64_clips_after_a_warmup_of_400():
    recipe = camera_motion()
    clips = 4 * len(recipe.data.clips(0))
    assert recipe.data.batch_size == 64
    assert clips // recipe.data.batch_size * recipe.schedule.epochs == 6000
    assert recipe.schedule.warmup_epochs * 6000 == 400
    assert recipe.schedule.lr_update == "step"


def test_settings_are_those_that_the_bundled_model_was_trained_with():
    recipe = camera_motion()
    optimizer = recipe.optimizer
    assert (optimizer.lr, optimizer.backbone_lr_scale, optimizer.layer_decay) == (1e-3, 1.0, 1.0)
    assert (optimizer.weight_decay, optimizer.param_groups) == (0.05, "clean")
    assert (optimizer.max_grad_norm, optimizer.ema_decay) == (1.0, 0.999)
    assert recipe.augment == Augment(scale=(1, 1), ratio=(1, 1), hflip=0, label_smoothing=0.05)
    assert (recipe.model.drop_path, recipe.model.dropout) == (0, 0)
    assert (recipe.run.num_threads, recipe.run.seed) == (1, 0)
    # It was trained in bf16; on processors without bf16 instructions, the recipe has another precision.
    assert recipe.run.precision == natural_precision(resolve_device("auto").type)
    assert recipe.run.license == "Apache-2.0"


ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def bundled() -> Checkpoint:
    return Checkpoint.load("camera-motion")


def test_the_bundled_model_comes_from_this_recipe(bundled):
    recipe = camera_motion()
    assert bundled.lineage["trained on"] == recipe.data.description
    assert bundled.license == recipe.run.license
    assert bundled.config == recipe.model.config
    assert bundled.clip == recipe.data.clip
    assert bundled.views == recipe.data.views
    assert list(bundled.labels) == list(recipe.data.labels)


def test_the_bundled_file_is_the_measured_one_and_has_the_required_accuracy():
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
def test_the_bundled_model_recognizes_every_movement_in_a_file(bundled, label, backwards, tmp_path):
    """Two seconds of a steady camera over a photograph outside of the training data, forward and backward."""
    motion = MotionRange(slowest=0.2, fastest=0.2, shake=0.0, easing=0.0)
    poses = camera_path(np.random.default_rng(0), LABELS.index(label), np.arange(60) / 30, 2.0, motion)
    view = view_from_base(poses, 4 / 3, width=4 / 3)
    frames = warp(load_photo("coffee.png"), np.diag([0.8, 1.2, 1.0]) @ view, (192, 256), outside="reflection")
    write_h264(tmp_path / "video.mp4", to_pixels(frames.flip(0) if backwards else frames), fps=30, crf=28)
    answer, _ = Predictor(bundled, device="cpu")(tmp_path / "video.mp4").top(1)[0]
    assert answer == (LABELS[reversed_label(LABELS.index(label))] if backwards else label)
