"""Recipes and their settings: a round trip changes nothing, and errors are clear."""

import dataclasses
import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from videoswin.model.config import NANO, TINY
from videoswin.model.swin import initialize_from_scratch
from videoswin.training.recipe import (
    Augment,
    Model,
    Optimizer,
    Recipe,
    Run,
    Schedule,
    SyntheticData,
    VideoData,
)
from videoswin.training.settings import flatten, parse_assignments, parse_settings, with_settings
from videoswin.video.spec import PER_CLIP, ClipSpec, Normalization, ViewPlan

RECIPE = Recipe(
    name="a run",
    data=VideoData(train="videos/", clip=ClipSpec(), views=ViewPlan(), batch_size=8),
    model=Model(init_from="tiny-k400"),
    augment=Augment(flip_pairs=(("pan left", "pan right"),)),
    optimizer=Optimizer(lr=1e-3),
    schedule=Schedule(epochs=30, warmup_epochs=2.5),
    run=Run(),
)
FROM_NOTHING = dataclasses.replace(
    RECIPE,
    data=dataclasses.replace(RECIPE.data, clip=ClipSpec(size=64, short_side=64, normalization=PER_CLIP)),
    model=Model(init_from=None, config=NANO, initialize=initialize_from_scratch),
)

texts = st.text(max_size=8).filter(
    lambda text: text not in ("null", "None")
)  # typed for an optional text: None
numbers = st.floats(0, 1, exclude_min=True)
recipes = st.builds(
    lambda **parts: dataclasses.replace(RECIPE, **parts),
    name=texts,
    data=st.builds(
        VideoData,
        train=texts,
        val=st.none() | texts,
        class_balanced=st.booleans(),
        clip=st.builds(
            ClipSpec,
            frames=st.integers(1, 64),
            fps=st.none() | st.floats(0.01, 60),
            size=st.integers(1, 224),
            normalization=st.just(PER_CLIP)
            | st.builds(
                Normalization, mean=st.tuples(*[numbers] * 3), std=st.tuples(*[st.floats(0.01, 1)] * 3)
            ),
            rule=st.sampled_from(["dense", "segments"]),
        ),
        views=st.builds(ViewPlan, crops=st.sampled_from([1, 3])),
        batch_size=st.integers(1, 256),
    ),
    model=st.builds(
        Model,
        init_from=st.none() | texts,
        config=st.sampled_from([None, NANO, TINY]),
        initialize=st.none(),
        trainable=st.sampled_from(["all", "head", "lora"]),
        dropout=numbers,
    ),
    augment=st.builds(
        Augment,
        scale=numbers.map(lambda least: (least, 1.0)),
        flip_pairs=st.lists(st.tuples(texts, texts), max_size=2).map(tuple),
    ),
    optimizer=st.builds(
        Optimizer, lr=numbers, max_grad_norm=st.none() | numbers, class_weights=st.booleans()
    ),
)


@given(recipes, st.sampled_from([RECIPE, FROM_NOTHING]))
def test_what_is_written_down_gives_the_same_recipe_over_any_other(recipe, base):
    base = dataclasses.replace(base, model=dataclasses.replace(base.model, initialize=None))
    assert with_settings(base, json.loads(json.dumps(flatten(recipe)))) == recipe


@given(recipes)
def test_typing_every_value_gives_the_same_recipe(recipe):
    typed = {
        key: value if isinstance(value, str) else json.dumps(value) for key, value in flatten(recipe).items()
    }
    assert with_settings(RECIPE, typed) == recipe


def test_no_settings_change_nothing():
    assert with_settings(RECIPE, {}) == RECIPE


def test_settings_are_named_by_the_path_to_them():
    settings = flatten(RECIPE)
    assert settings["optimizer.lr"] == 1e-3
    assert settings["data.clip.frames"] == 32
    assert settings["data.train"] == "videos/"
    assert settings["data.clip.normalization.mean"] == [0.485, 0.456, 0.406]
    assert settings["augment.flip_pairs"] == [["pan left", "pan right"]]
    assert settings["model.config"] is None
    assert flatten(FROM_NOTHING)["model.config.window"] == [4, 4, 4]
    assert flatten(FROM_NOTHING)["data.clip.normalization"] == "per-clip"


def test_functions_are_no_settings():
    synthetic = SyntheticData(
        clips=lambda seed: None,
        description="clips",
        labels=("a", "b"),
        clip=ClipSpec(),
        views=ViewPlan(),
        batch_size=8,
    )
    recipe = dataclasses.replace(FROM_NOTHING, data=synthetic)
    settings = flatten(recipe)
    own = {key for key in settings if key.startswith("data.") and key not in flatten(RECIPE)}
    assert own == {"data.description", "data.labels"}
    assert "model.initialize" not in settings
    assert with_settings(recipe, settings) == recipe


@pytest.mark.parametrize(
    ("key", "text", "value"),
    [
        ("optimizer.lr", "3e-4", 3e-4),
        ("optimizer.lr", "1", 1.0),
        ("optimizer.max_grad_norm", "null", None),
        ("optimizer.max_grad_norm", "0.5", 0.5),
        ("optimizer.betas", "[0.9, 0.95]", (0.9, 0.95)),
        ("optimizer.class_weights", "true", True),
        ("optimizer.param_groups", "official", "official"),
        ("data.views.crops", "1", 1),
        ("data.clip.normalization", "per-clip", "per-clip"),
        ("data.val", "2024", "2024"),
        ("model.init_from", "null", None),
        ("augment.flip_pairs", '[["open left", "open right"]]', (("open left", "open right"),)),
        ("augment.flip_pairs", "[]", ()),
    ],
)
def test_a_typed_value_becomes_what_the_setting_is(key, text, value):
    part = with_settings(RECIPE, {key: text})
    for name in key.split("."):
        part = getattr(part, name)
    assert part == value
    assert type(part) is type(value)


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("schedule.epochs", "2.5", "a whole number"),
        ("schedule.epochs", True, "a whole number"),
        ("schedule.epochs", 2.0, "a whole number"),
        ("schedule.epochs", "null", "a whole number"),
        ("optimizer.lr", "fast", "a number"),
        ("optimizer.lr", "nan", "a number"),
        ("optimizer.lr", False, "a number"),
        ("optimizer.class_weights", 1, "true or false"),
        ("optimizer.betas", "[0.9]", "[a number, a number]"),
        ("optimizer.betas", "0.9, 0.95", "[a number, a number]"),
        ("optimizer.param_groups", "offical", "official or mmaction2 or clean"),
        ("data.views.crops", "2", "1 or 3 or full"),
        ("data.views.crops", True, "1 or 3 or full"),
        ("augment.flip_pairs", '["left", "right"]', "[[text, text], ...]"),
        ("model.init_from", 5, "text or null"),
        ("model.config", "tiny", "its fields or null"),
    ],
)
def test_a_value_of_the_wrong_type_is_refused_with_what_is_expected(key, value, expected):
    with pytest.raises(ValueError, match=re.escape(f"{key} must be {expected}, got {value!r}")):
        with_settings(RECIPE, {key: value})


def test_the_refusal_shows_how_to_set_it():
    with pytest.raises(ValueError, match=re.escape("as in --set 'optimizer.betas=[0.9, 0.999]'")):
        with_settings(RECIPE, {"optimizer.betas": "0.9"})


@pytest.mark.parametrize(
    ("key", "right"),
    [
        ("optimzer.rate", "optimizer.lr"),
        ("optimiser.lr", "optimizer.lr"),
        ("batch_size", "data.batch_size"),
        ("run.batchsize", "data.batch_size"),
        ("schedule.epoch", "schedule.epochs"),
        ("model.config.windows", "model.config.window"),
        ("data.clip.normalisation", "data.clip.normalization"),
    ],
)
def test_a_setting_that_does_not_exist_names_the_nearest(key, right):
    with pytest.raises(ValueError, match=rf"no setting '{key}'; did you mean .*\b{right}\b"):
        with_settings(RECIPE, {key: "1"})


@pytest.mark.parametrize(
    ("key", "value"),
    [("data.group", "folder"), ("optimizer.maxgrad_norm", "1"), ("optimizer.max_grad_norm", "much")],
)
def test_null_is_no_example_of_a_value(key, value):
    with pytest.raises(ValueError, match=r"data\.group_by|optimizer\.max_grad_norm") as caught:
        with_settings(RECIPE, {key: value})
    assert "--set" not in str(caught.value)


def test_an_empty_list_is_no_example_of_a_value():
    plain = dataclasses.replace(RECIPE, augment=Augment())
    with pytest.raises(ValueError, match=r"must be \[\[text, text\], ...\], got"):
        with_settings(plain, {"augment.flip_pairs": "left"})


@pytest.mark.parametrize("key", ["optimzer.rate", "schedule.epoch", "model.tunes"])
def test_the_example_for_a_misspelled_setting_is_its_value_now(key):
    with pytest.raises(ValueError, match=r"\(--set [a-z.]+=[^n)]+\)"):
        with_settings(RECIPE, {key: "1"})


@pytest.mark.parametrize("key", ["zzz", "data", "model", "optimizer.zzz"])
def test_no_answer_to_a_wrong_setting_lists_more_than_three_names(key):
    with pytest.raises(ValueError, match=r"recipe\.json of any run lists all settings") as caught:
        with_settings(RECIPE, {key: 1})
    assert sum(str(caught.value).count(name) > 0 for name in flatten(RECIPE)) <= 3


def test_a_part_cannot_be_set_as_a_whole():
    with pytest.raises(
        ValueError, match=r"data.views cannot be set as a whole; set its fields, such as data.views.clips"
    ):
        with_settings(RECIPE, {"data.views": "fast"})


def test_a_setting_cannot_be_set_as_a_whole_and_in_parts():
    settings = {"data.clip.normalization": "per-clip", "data.clip.normalization.mean": [0, 0, 0]}
    with pytest.raises(
        ValueError, match=r"data.clip.normalization must be set as a whole or by its fields, got both"
    ):
        with_settings(RECIPE, settings)


def test_a_value_that_its_part_refuses_is_named_with_the_part():
    with pytest.raises(ValueError, match=r"data.clip: short_side must be >= size 224, got 100"):
        with_settings(RECIPE, {"data.clip.short_side": 100})
    with pytest.raises(ValueError, match=r"model.config: .* not divisible by 5 heads"):
        with_settings(FROM_NOTHING, {"model.config.num_heads": "[5,5,5]"})


def test_values_that_fit_only_together_are_set_together():
    recipe = with_settings(RECIPE, {"data.clip.short_side": 100, "data.clip.size": "96"})
    assert (recipe.data.clip.short_side, recipe.data.clip.size) == (100, 96)


def test_an_architecture_that_is_not_there_is_set_whole_or_not_at_all():
    sizes = {
        "model.config.embed_dim": 32,
        "model.config.depths": [2, 2, 2],
        "model.config.num_heads": [1, 2, 4],
    }
    made = with_settings(RECIPE, sizes).model.config
    assert made == NANO.replace(window=(8, 7, 7), num_classes=400)
    with pytest.raises(ValueError, match=r"model.config is null: also set .*model.config.embed_dim"):
        with_settings(RECIPE, {"model.config.window": "[16,7,7]"})


def test_an_architecture_can_be_taken_away():
    assert with_settings(FROM_NOTHING, {"model.config": "null"}).model.config is None


def test_assignments_are_names_and_texts():
    assert parse_assignments(["a.b=1", "c = x=y", "d="]) == {"a.b": "1", "c": "x=y", "d": ""}


@pytest.mark.parametrize("wrong", [["optimizer.lr"], ["=3"], ["a=1", "a=2"]])
def test_an_assignment_without_a_name_or_given_twice_is_refused(wrong):
    with pytest.raises(ValueError, match="--set"):
        parse_assignments(wrong)


def test_settings_are_parsed_without_checking_that_their_values_fit():
    given = {"data.clip.size": "96", "schedule.warmup_epochs": "40", "model.config.window": "[16, 7, 7]"}
    parsed = {"data.clip.size": 96, "schedule.warmup_epochs": 40.0, "model.config.window": (16, 7, 7)}
    assert parse_settings(RECIPE, given) == parsed
    with pytest.raises(ValueError, match=r"did you mean 'optimizer\.lr'"):
        parse_settings(RECIPE, {"optimizer.rate": 1})
