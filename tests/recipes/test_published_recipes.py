"""The published recipes have the values of the configs of Video-Swin-Transformer."""

import dataclasses

import pytest

from videoswin.model.config import BASE, BASE_W16, SMALL, TINY
from videoswin.recipes import RECIPES, build_recipe
from videoswin.training.recipe import Augment, Optimizer, Schedule, VideoData
from videoswin.video.rand_augment import CHANCE
from videoswin.video.spec import IMAGENET, ClipSpec, ViewPlan
from videoswin.weights.catalog import ENTRIES

# Name, architecture, init_from, lr, weight decay, drop path, epochs, micro-batch size.
TABLE = [
    ("kinetics:tiny", TINY, "image-tiny-in1k", 1e-3, 0.02, 0.1, 30, 2),
    ("kinetics:small", SMALL, "image-small-in1k", 1e-3, 0.02, 0.1, 30, 1),
    ("kinetics:base", BASE, "image-base-in1k", 1e-3, 0.05, 0.3, 30, 1),
    ("kinetics:base_22k", BASE, "image-base-in22k", 3e-4, 0.05, 0.2, 30, 1),
    ("kinetics600:base_22k", BASE, "image-base-in22k", 3e-4, 0.05, 0.2, 30, 1),
    ("something:base", BASE_W16, "base-w16-k400-in22k", 3e-4, 0.05, 0.4, 60, 1),
]
PUBLISHED = [row[0] for row in TABLE]
KINETICS = PUBLISHED[:5]
MODERN = [f"kinetics:{name}_modern" for name in ("tiny", "small", "base", "base_22k")]


def recipe_of(name):
    return build_recipe(name, data="videos/")


@pytest.mark.parametrize(
    ("name", "config", "init_from", "lr", "weight_decay", "drop_path", "epochs", "micro_batch_size"),
    TABLE,
    ids=PUBLISHED,
)
def test_values_are_those_of_the_official_config(
    name, config, init_from, lr, weight_decay, drop_path, epochs, micro_batch_size
):
    recipe = recipe_of(name)
    assert recipe.model.config == config
    assert recipe.model.init_from == init_from
    assert recipe.model.drop_path == drop_path
    assert recipe.optimizer == Optimizer(
        lr=lr,
        backbone_lr_scale=0.1,
        layer_decay=1.0,
        weight_decay=weight_decay,
        betas=(0.9, 0.999),
        param_groups="official",
        max_grad_norm=None,
        ema_decay=None,
        class_weights=False,
    )
    assert recipe.schedule == Schedule(
        epochs=epochs,
        warmup_epochs=2.5,
        lr_update="epoch",
        warmup_start_factor=0.1,
        val_every=5,
        patience=None,
    )
    assert recipe.data.batch_size == 64
    assert recipe.data.batch_size // recipe.run.grad_accum_steps == micro_batch_size


@pytest.mark.parametrize("name", PUBLISHED)
def test_all_parameters_are_trained_in_fp16_with_dropout_0_5(name):
    recipe = recipe_of(name)
    assert recipe.run.precision == "fp16"
    assert (recipe.model.trainable, recipe.model.dropout, recipe.model.grad_checkpointing) == (
        "all",
        0.5,
        False,
    )


@pytest.mark.parametrize("name", PUBLISHED)
def test_each_training_video_is_used_once_per_epoch(name):
    data = recipe_of(name).data
    assert isinstance(data, VideoData)
    assert (data.train, data.val, data.val_fraction) == ("videos/", None, 0.0)
    assert (data.class_balanced, data.num_repeats) == (False, 1)


@pytest.mark.parametrize("name", KINETICS)
def test_kinetics_clips_are_32_frames_at_stride_2_and_tested_in_4x3_views(name):
    data = recipe_of(name).data
    assert data.clip == ClipSpec(
        frames=32, stride=2, fps=None, size=224, short_side=224, normalization=IMAGENET, rule="dense"
    )
    assert data.views == ViewPlan(clips=4, crops=3, placement="official")


def test_something_clips_are_32_segments_of_the_video_and_tested_in_1x3_views():
    data = recipe_of("something:base").data
    assert (data.clip.frames, data.clip.size, data.clip.short_side, data.clip.rule) == (
        32,
        224,
        224,
        "segments",
    )
    assert data.views == ViewPlan(clips=1, crops=3, placement="official")


@pytest.mark.parametrize("name", KINETICS)
def test_kinetics_clips_are_cropped_and_mirrored_and_nothing_else(name):
    plain = Augment(short_side=256, scale=(0.08, 1.0), ratio=(3 / 4, 4 / 3), hflip=0.5)
    assert recipe_of(name).augment == plain
    assert (plain.color_jitter, plain.rand_augment, plain.random_erasing) == (0, 0, 0)
    assert (plain.mixup, plain.cutmix, plain.label_smoothing) == (0, 0, 0)


def test_something_clips_are_augmented_but_never_mirrored():
    assert recipe_of("something:base").augment == Augment(
        short_side=256,
        scale=(0.08, 1.0),
        ratio=(3 / 4, 4 / 3),
        hflip=0.0,
        rand_augment=8,
        rand_magnitude=7 / 3,
        random_erasing=0.25,
        label_smoothing=0.1,
    )


def test_something_has_the_operations_and_the_strength_that_imgaug_gives_n_4_and_m_7():
    augment = recipe_of("something:base").augment
    assert augment.rand_augment * CHANCE == 4
    assert augment.rand_magnitude / 10 == pytest.approx(7 / 30)


def test_something_as_published_has_the_augmentation_of_imgaug_and_nothing_else_differs():
    plain, published = recipe_of("something:base"), recipe_of("something:base_imgaug")
    augment = dataclasses.replace(
        plain.augment, rand_augment=4, rand_magnitude=7.0, rand_policy="imgaug", hflip=0.0
    )
    assert published == dataclasses.replace(plain, name="something-base-imgaug", augment=augment)


@pytest.mark.parametrize("name", [*PUBLISHED, *MODERN])
def test_the_initial_weights_are_in_the_catalog_and_have_the_architecture(name):
    model = recipe_of(name).model
    entry = ENTRIES[model.init_from]
    assert {"tiny": TINY, "small": SMALL, "base": BASE}[entry.architecture].depths == model.config.depths
    assert entry.is_image_model or entry.window == model.config.window
    assert entry.is_free


@pytest.mark.parametrize("name", MODERN)
def test_modern_keeps_model_data_and_length(name):
    modern, published = recipe_of(name), recipe_of(name.removesuffix("_modern"))
    assert modern.model == published.model
    assert dataclasses.replace(modern.data, num_repeats=published.data.num_repeats) == published.data
    assert modern.schedule == dataclasses.replace(published.schedule, lr_update="step")
    assert modern.optimizer.lr == published.optimizer.lr


@pytest.mark.parametrize("name", MODERN)
def test_modern_augments_and_averages_as_newer_models_do(name):
    recipe = recipe_of(name)
    augment, optimizer = recipe.augment, recipe.optimizer
    assert (augment.rand_augment, augment.rand_magnitude, augment.color_jitter) == (4, 7.0, 0.4)
    assert (augment.mixup, augment.cutmix, augment.random_erasing, augment.label_smoothing) == (
        0.8,
        1.0,
        0.25,
        0.1,
    )
    assert (optimizer.param_groups, optimizer.max_grad_norm, optimizer.ema_decay) == ("clean", 1.0, 0.9999)
    assert optimizer.weight_decay == 0.05
    assert recipe.data.num_repeats == 2
    assert recipe.run.precision == "bf16"


@pytest.mark.parametrize("name", MODERN)
def test_modern_rates_fall_with_depth_around_the_published_tenth(name):
    recipe = recipe_of(name)
    blocks = sum(recipe.model.config.depths)
    first = recipe.optimizer.backbone_lr_scale * recipe.optimizer.layer_decay ** (blocks + 1)
    assert recipe.optimizer.layer_decay < 1
    assert 0.07 < first < 0.1 < recipe.optimizer.backbone_lr_scale


@pytest.mark.parametrize("name", [*PUBLISHED, *MODERN])
def test_the_batch_size_is_divisible_by_micro_batches_and_repeats(name):
    recipe = recipe_of(name)
    assert recipe.data.batch_size % (recipe.run.grad_accum_steps * recipe.data.num_repeats) == 0


@pytest.mark.parametrize("name", sorted(RECIPES))
def test_the_docstring_of_every_recipe_has_command_cost_and_expected_result(name):
    text = " ".join(RECIPES[name].__doc__.split()) + " "
    assert f"`videoswin train {name} " in text
    assert "Cost: " in text
    assert "Expected" in text
