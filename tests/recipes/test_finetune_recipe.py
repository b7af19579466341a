"""Fine-tuning chooses its settings from the data, the checkpoint and the machine, with a reason for each."""

import importlib
import json
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from videoswin.camera_motion.clips import write_h264
from videoswin.cli.training import train
from videoswin.data.manifest import Manifest, Sample
from videoswin.model.config import BASE, NANO, TINY
from videoswin.model.swin import VideoSwin
from videoswin.recipes import autoconfig, build_recipe, plan_run, recipe_to_dict
from videoswin.recipes.autoconfig import Durations, Speed, TrainingContext, inspect_context, natural_precision
from videoswin.recipes.clips import clip_warning, default_clip, describe_assumed_frame_rate, expected_time
from videoswin.recipes.finetune import (
    CHOSEN_SETTINGS,
    DEFAULTS,
    MAX_BATCH_SIZE,
    choose_settings,
    read_measured_settings,
)
from videoswin.training import data as training_data
from videoswin.training import loop
from videoswin.training.data import read_inputs
from videoswin.training.memory import estimate_training_bytes
from videoswin.training.settings import flatten, with_settings
from videoswin.video.spec import PER_CLIP, ClipSpec, ViewPlan
from videoswin.weights.checkpoint import Checkpoint


def checkpoint_of(config) -> Checkpoint:
    """Return a checkpoint with weights on the meta device: only their sizes matter."""
    with torch.device("meta"):
        weights = VideoSwin(config).state_dict()
    labels = tuple(map(str, range(config.num_classes)))
    return Checkpoint(weights=weights, config=config, clip=ClipSpec(), views=ViewPlan(), labels=labels)


# In the package, the function has the name of its module.
finetune_module = importlib.import_module("videoswin.recipes.finetune")

CHECKPOINTS = {"nano": checkpoint_of(NANO), "tiny": checkpoint_of(TINY), "base": checkpoint_of(BASE)}


def chosen_settings(
    model="tiny", *, by_hand: Mapping[str, Any] = MappingProxyType({}), **facts: Any
) -> dict[str, Any]:
    """Return every chosen setting; `by_hand` has the arguments that the user set."""
    found = choose_settings(context(model, **facts), **by_hand)
    pairs = [item for choice in found for item in choice.settings.items()]
    assert len(dict(pairs)) == len(pairs), "a setting is chosen twice"
    return dict(pairs)


@pytest.mark.parametrize("model", ["nano", "tiny"])
def test_every_setting_that_is_chosen_is_listed_as_such(model):
    assert chosen_settings(model).keys() <= CHOSEN_SETTINGS


def context(
    model="tiny",
    *,
    classes=("cook", "run"),
    each=100,
    counts=None,
    device="cuda",
    multi_label=False,
    **facts: Any,
) -> TrainingContext:
    """Return a context with `each` videos per class."""
    counts = counts or (each,) * len(classes)
    return TrainingContext(
        checkpoint=CHECKPOINTS[model],
        classes=classes,
        counts=counts,
        videos=sum(counts),
        multi_label=multi_label,
        device=device,
        precision="bf16",
        cores=8,
        **facts,
    )


@pytest.mark.parametrize(
    ("model", "device", "classes", "each", "trainable"),
    [
        ("nano", "cpu", 2, 3, "all"),
        ("nano", "cuda", 10, 500, "all"),
        ("tiny", "cpu", 10, 500, "head"),
        ("tiny", "cuda", 10, 9, "head"),
        ("tiny", "cuda", 10, 10, "lora"),
        ("tiny", "mps", 10, 49, "lora"),
        ("tiny", "cuda", 10, 50, "all"),
        ("base", "cuda", 100, 20, "all"),
    ],
)
def test_more_videos_make_more_parameters_trainable_and_small_models_are_trained_completely(
    model, device, classes, each, trainable
):
    names = tuple(f"class {number}" for number in range(classes))
    assert chosen_settings(model, classes=names, each=each, device=device)["model.trainable"] == trainable


@settings(max_examples=15)
@given(st.sampled_from(["nano", "tiny"]), st.integers(1, 400), st.sampled_from(["cpu", "cuda"]))
def test_batches_are_divisible_and_epochs_are_in_range_for_any_number_of_videos(model, each, device):
    found = chosen_settings(model, each=each, device=device)
    batch, num_repeats = found["data.batch_size"], found["data.num_repeats"]
    assert 1 <= batch // num_repeats <= 2 * each
    assert batch <= MAX_BATCH_SIZE
    assert batch % (num_repeats * found["run.grad_accum_steps"]) == 0
    epochs = found["schedule.epochs"]
    assert 1 <= epochs * num_repeats <= (400 if model == "nano" else 100)
    assert 0 < found["schedule.warmup_epochs"] < epochs
    assert found["schedule.patience"] >= 5


def test_without_a_gpu_a_large_model_gets_few_epochs():
    assert chosen_settings("tiny", each=200, device="cpu")["schedule.epochs"] == 10
    assert chosen_settings("tiny", each=20, device="cuda")["schedule.epochs"] > 10
    assert chosen_settings("nano", each=20, device="cpu")["schedule.epochs"] > 10


def test_the_learning_rate_grows_with_the_square_root_of_the_batch_size_up_to_the_published_one():
    small, large = chosen_settings(each=16), chosen_settings(each=2000)
    assert (small["data.batch_size"], large["data.batch_size"]) == (8, 64)
    assert large["optimizer.lr"] == 1e-3
    assert small["optimizer.lr"] == pytest.approx(1e-3 / 8**0.5, rel=0.05)


def test_a_small_model_has_one_learning_rate_and_a_large_one_lower_rates_with_depth():
    nano, tiny, base = (chosen_settings(model, each=500) for model in ("nano", "tiny", "base"))
    assert (nano["optimizer.backbone_lr_scale"], nano["optimizer.layer_decay"]) == (1.0, 1.0)
    assert (tiny["optimizer.backbone_lr_scale"], base["optimizer.backbone_lr_scale"]) == (0.1, 0.1)
    assert tiny["optimizer.layer_decay"] ** 12 == pytest.approx(0.3, abs=0.03)
    assert base["optimizer.layer_decay"] ** 24 == pytest.approx(0.3, abs=0.03)


def test_augmentation_is_stronger_with_more_trainable_parameters():
    head, lora, everything = (chosen_settings(each=each) for each in (5, 30, 500))
    strength = [
        (
            1 - s["augment.scale"][0],
            s["augment.rand_augment"],
            s["augment.random_erasing"],
            s["augment.mixup"],
        )
        for s in (head, lora, everything)
    ]
    assert strength == sorted(strength)
    assert strength[0] == (0.5, 0, 0, 0)
    assert strength[2] == (0.8, 2, 0.25, 0.2)


@pytest.mark.parametrize(
    ("classes", "flip", "pairs"),
    [
        (("cook", "run"), 0.5, []),
        (("pan left", "pan right", "static"), 0.5, [["pan left", "pan right"]]),
        (("turn left", "run"), 0.0, []),
        (("pan left", "pan right", "turn left"), 0.0, []),
    ],
)
def test_clips_are_mirrored_only_if_labels_stay_correct(classes, flip, pairs):
    found = chosen_settings(classes=classes)
    assert (found["augment.hflip"], found["augment.flip_pairs"]) == (flip, pairs)


def test_classes_of_very_different_size_are_sampled_equally_often():
    assert chosen_settings(counts=(400, 100))["data.class_balanced"] is True
    assert chosen_settings(counts=(200, 100))["data.class_balanced"] is False
    assert chosen_settings(counts=(400, 100), multi_label=True)["data.class_balanced"] is False


def test_targets_of_several_labels_are_not_smoothed():
    assert chosen_settings()["augment.label_smoothing"] == 0.1
    assert chosen_settings(multi_label=True)["augment.label_smoothing"] == 0


def test_a_step_fits_into_memory_by_estimate():
    found = chosen_settings("base", each=1000)
    assert found["run.grad_accum_steps"] > 1
    needed = [
        estimate_training_bytes(
            BASE,
            ClipSpec(),
            found["data.batch_size"] // parts,
            precision="bf16",
            grad_checkpointing=False,
            trainable="all",
            ema=False,
            device_type="cuda",
        )
        for parts in (found["run.grad_accum_steps"], found["run.grad_accum_steps"] // 2)
    ]
    assert needed[0] <= 8 * 2**30 < needed[1]


def test_precision_is_the_fastest_that_the_hardware_supports(monkeypatch):
    assert natural_precision("mps") == "fp32"
    for capabilities, precision in (({"avx512_bf16": True}, "bf16"), ({"avx2": True}, "fp32")):
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda found=capabilities: found)
        assert natural_precision("cpu") == precision
    for supported, precision in ((True, "bf16"), (False, "fp16")):
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda supported=supported, **_: supported)
        assert natural_precision("cuda") == precision


@pytest.fixture(scope="module")
def videos(tmp_path_factory) -> str:
    """Two classes of five tiny videos each."""
    folder = tmp_path_factory.mktemp("data") / "my_videos"
    frames_thwc = torch.randint(0, 255, (4, 32, 48, 3), generator=torch.Generator().manual_seed(0)).byte()
    for number in range(5):
        for label in ("walk left", "walk right"):
            path = folder / label / f"{number}.mp4"
            path.parent.mkdir(parents=True, exist_ok=True)
            write_h264(path, frames_thwc, fps=8, crf=30)
    return str(folder)


def test_videos_and_an_initial_checkpoint_are_enough(videos):
    recipe = build_recipe("finetune", data=videos, init_from="camera-motion")
    init_from = Checkpoint.load("camera-motion")
    assert recipe.name == "my_videos-from-camera-motion"
    # The videos last 0.5 s, a clip of the initial checkpoint 2 s.
    assert recipe.data.clip == init_from.clip.replace(fps=16.0)
    assert recipe.data.views == init_from.views
    assert recipe.data.clip.normalization == PER_CLIP
    assert (recipe.model.init_from, recipe.model.config, recipe.model.trainable) == (
        "camera-motion",
        None,
        "all",
    )
    assert recipe.data.train == videos
    assert recipe.data.batch_size == 8 * recipe.data.num_repeats  # of the videos that are not held out
    assert recipe.augment.flip_pairs == (("walk left", "walk right"),)
    assert recipe.optimizer.param_groups == "clean"
    assert init_from.license in recipe.run.license


def test_held_out_videos_are_not_counted(videos):
    recipe = with_settings(DEFAULTS, {"data.train": videos, "model.init_from": "camera-motion"})
    assert inspect_context(read_inputs(recipe), {}).counts == (4, 4)
    assert inspect_context(read_inputs(with_settings(recipe, {"data.val": videos})), {}).counts == (5, 5)


def test_every_choice_is_explained_with_its_value(videos):
    lines = plan_run("finetune", data=videos, init_from="camera-motion").reasons
    assert lines[0] == (
        "data.clip.frames=8, data.clip.stride=1, data.clip.fps=16.0, data.clip.size=64: a clip is 8 "
        "frames at 16 frames/s = 0.5 s, 64x64 pixels; your videos last 0.5 to 0.5 s, median 0.5 s; clips of "
        "the initial model last 2.0 s"
    )
    assert lines[1].startswith(
        'model.trainable="all": the model has 0.6 million parameters, fewer than 5 million: all parameters'
    )
    measured = (
        r"on 8 of the 8 training videos, \d clips? of each: decoding a clip takes \d+ ms, a training step"
    )
    assert re.search(measured, lines[2])
    assert lines[-1].startswith("expected time: ")
    assert not any("you set" in line for line in lines)
    assert max(map(len, lines)) <= 220


def test_settings_of_the_user_are_named_in_the_explanation(videos):
    plan = plan_run(
        "finetune",
        data=videos,
        init_from="camera-motion",
        settings={"schedule.epochs": "7", "model.trainable": "head"},
    )
    lines = [line for line in plan.reasons if "you set" in line]
    assert len(lines) == 2
    assert lines[0].startswith('model.trainable="head": you set model.trainable')
    assert plan.recipe.schedule.warmup_epochs == pytest.approx(0.7)
    assert "schedule.epochs=7" in lines[1]


def test_one_video_per_class_is_trained_on_without_validation_on_request(tmp_path):
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "0.mp4").touch()
    call = {"data": str(tmp_path), "init_from": "camera-motion"}
    with pytest.raises(ValueError, match=r"no video can be held out .* set data\.val_fraction=0"):
        build_recipe("finetune", **call)
    plan = plan_run("finetune", **call, settings={"data.val_fraction": "0"})
    assert plan.recipe.data.val_fraction == 0
    assert any("each class has 1 training video" in line for line in plan.reasons)
    for value in ("x", "2"):
        with pytest.raises(ValueError, match="val_fraction"):
            build_recipe("finetune", **call, settings={"data.val_fraction": value})


def test_class_weights_and_balanced_sampling_are_refused_before_anything_is_read():
    both = {"optimizer.class_weights": "true", "data.class_balanced": "true"}
    with pytest.raises(ValueError, match="count rare classes twice: set one of them to false"):
        build_recipe("finetune", data="nowhere/", init_from="camera-motion", settings=both)


def test_class_weights_replace_balanced_sampling():
    uneven = {"counts": (3, 30)}
    assert chosen_settings(**uneven)["data.class_balanced"] is True
    assert chosen_settings(**uneven, class_weights=True)["data.class_balanced"] is False


def test_class_weights_for_several_labels_are_refused_before_anything_is_timed(monkeypatch):
    def with_speed(*arguments):
        raise AssertionError("nothing may be timed before")

    monkeypatch.setattr(finetune_module, "read_inputs", lambda recipe, *, license: None)
    monkeypatch.setattr(finetune_module, "inspect_context", lambda *_: context(multi_label=True))
    monkeypatch.setattr(TrainingContext, "with_speed", with_speed)
    with pytest.raises(ValueError, match="class_weights is for videos with one label each"):
        build_recipe(
            "finetune", data="v/", init_from="camera-motion", settings={"optimizer.class_weights": "true"}
        )


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"optimizer.rate": "1"}, r"no setting 'optimizer\.rate'; did you mean 'optimizer\.lr'"),
        ({"schedule.epochs": "x"}, r"schedule\.epochs must be a whole number, got 'x'"),
        ({"schedule.epochs": "0"}, "epochs must be > 0, got 0"),
        ({"run.precision": "half"}, r"run\.precision must be fp32 or bf16 or fp16, got 'half'"),
        ({"data.clip.size": "x"}, r"data\.clip\.size must be a whole number, got 'x'"),
        ({"data.clip.fps": "x"}, r"data\.clip\.fps must be a number or null, got 'x'"),
        ({"data.val_fraction": "2"}, "val_fraction must be >= 0 and < 1, got 2"),
        ({"run.devices": "0"}, "devices must be > 0, got 0"),
    ],
)
def test_an_invalid_setting_is_refused_before_anything_is_read(settings, message):
    with pytest.raises(ValueError, match=message):
        build_recipe("finetune", data="nowhere/", init_from="camera-motion", settings=settings)


def test_training_reads_the_checkpoint_and_the_list_once(videos, tmp_path, monkeypatch):
    counts = Counter()

    def counted(function):
        def call(*arguments, **options):
            counts[function.__name__] += 1
            return function(*arguments, **options)

        return call

    monkeypatch.setattr(Checkpoint, "load", counted(Checkpoint.load))
    monkeypatch.setattr(training_data, "read_manifest", counted(training_data.read_manifest))
    monkeypatch.setattr(loop, "run_epochs", counted(lambda *arguments: False))
    out = str(tmp_path / "run")
    assert train("finetune", data=videos, model="camera-motion", out=out, device="cpu", seed=3) == 0
    assert counts == {"load": 1, "read_manifest": 1, "<lambda>": 1}


def test_a_note_says_that_folders_of_images_have_no_frame_rate(tmp_path):
    samples = (Sample(path=str(tmp_path), labels=(0,)), Sample(path="b.mp4", labels=(1,)))
    training = Manifest(source="list.csv", classes=("cook", "run"), samples=samples)
    note = describe_assumed_frame_rate(context(training=training))
    assert note is not None
    assert note.startswith("note: 1 of 2 videos is a folder of images, which have no frame rate: 30 frames/s")
    assert describe_assumed_frame_rate(context(training=replace(training, samples=samples[1:]))) is None


def test_a_run_is_repeated_with_the_settings_that_were_chosen_for_it(videos, tmp_path, monkeypatch):
    recipe = build_recipe("finetune", data=videos, init_from="camera-motion")
    (tmp_path / "recipe.json").write_text(
        json.dumps(recipe_to_dict(recipe, "finetune", videos, "camera-motion"))
    )
    monkeypatch.setattr("videoswin.recipes.autoconfig.natural_precision", lambda device: "fp16")
    assert flatten(build_recipe(str(tmp_path / "recipe.json"))) == flatten(recipe)


@pytest.mark.parametrize(
    ("data", "init_from", "message"),
    [
        ("nowhere/", "camera-motion", "nowhere/: there is no such"),
        ("", "camera-moton", "did you mean 'camera-motion'"),
    ],
)
def test_missing_videos_and_an_unknown_checkpoint_are_named(data, init_from, message, videos):
    with pytest.raises(ValueError, match=message):
        build_recipe("finetune", data=data or videos, init_from=init_from)


SPEED = Speed(decode=0.3, train=0.05)
"""8 processes decode a clip every 37 ms, 2 processes every 150 ms."""


@pytest.mark.parametrize(
    ("device", "speed", "num_repeats"),
    [("cpu", SPEED, 4), ("cuda", SPEED, 1), ("cuda", replace(SPEED, train=0.02), 2), ("cpu", None, 1)],
)
def test_decoded_clips_are_repeated_only_if_decoding_was_measured_to_be_slower(device, speed, num_repeats):
    assert chosen_settings("nano", device=device, speed=speed)["data.num_repeats"] == num_repeats


def test_learning_rate_epochs_and_memory_follow_the_batch_size_of_the_user():
    own, small = (
        chosen_settings("base", each=1000),
        chosen_settings("base", each=1000, by_hand={"batch_size": 8}),
    )
    assert (own["data.batch_size"], small["data.batch_size"]) == (64, 8)
    assert small["optimizer.lr"] == pytest.approx(own["optimizer.lr"] / 8**0.5, rel=0.05)
    assert small["run.grad_accum_steps"] < own["run.grad_accum_steps"]
    assert small["schedule.epochs"] < own["schedule.epochs"]
    odd = chosen_settings("base", each=1000, by_hand={"batch_size": 6, "num_repeats": 3})
    assert odd["data.batch_size"] % (3 * odd["run.grad_accum_steps"]) == 0


def test_memory_follows_the_clip_size_of_the_user():
    large = chosen_settings("base", each=1000, by_hand={"clip": ClipSpec(size=320, short_side=320)})
    assert large["run.grad_accum_steps"] > chosen_settings("base", each=1000)["run.grad_accum_steps"]


@pytest.mark.parametrize(
    ("clip", "median", "changed"),
    [
        (ClipSpec(frames=8, stride=1, fps=4.0), 1.6, {"fps": 5.0}),
        (ClipSpec(frames=8, stride=1, fps=4.0), 9.0, {}),
        (ClipSpec(frames=32, stride=2), 1.2, {"stride": 1}),
        (ClipSpec(frames=32, stride=2), 2.2, {}),
        (ClipSpec(frames=32, rule="segments"), 0.1, {}),
    ],
)
def test_clips_are_shortened_to_videos_that_are_shorter_than_a_clip_of_the_checkpoint(clip, median, changed):
    found = context(durations=Durations(0.1, median, 9.0, 30.0))
    checkpoint = replace(found.checkpoint, clip=clip, views=ViewPlan(clips=1, crops=1))
    found = replace(found, checkpoint=checkpoint)
    assert default_clip(found) == clip.replace(**changed)


def test_a_warning_names_clips_that_do_not_fit_the_videos():
    found = context(durations=Durations(0.5, 1.5, 4.0, 30.0))
    assert "half of your videos are shorter than a clip (2.1 s)" in clip_warning(found, ClipSpec())
    assert clip_warning(found, ClipSpec(stride=1)) is None
    found = context(durations=Durations(5.0, 60.0, 90.0, 30.0))
    assert "a clip of 2.1 s is a random part of a video of 60.0 s" in clip_warning(found, ClipSpec())
    assert clip_warning(context(), ClipSpec()) is None


def test_settings_that_depend_on_size_and_batch_size_follow_those_of_the_user(videos):
    made = {"data.clip.size": "96", "data.clip.frames": "4", "data.batch_size": "4"}
    plan = plan_run("finetune", data=videos, init_from="camera-motion", settings=made)
    recipe, lines = plan.recipe, plan.reasons
    assert (recipe.data.clip.size, recipe.data.clip.short_side, recipe.data.clip.frames) == (96, 96, 4)
    assert recipe.optimizer.lr == pytest.approx(1e-3 / 4, rel=0.02)
    assert "you set data.clip.frames: a clip is 4 frames" in lines[0]
    assert any("you set data.batch_size: " in line for line in lines)


def test_the_expected_time_counts_training_and_validation(videos):
    recipe = build_recipe("finetune", data=videos, init_from="camera-motion")
    assert expected_time(recipe, context(speed=None)) is None
    found = context("nano", each=100, device="cpu", speed=Speed(decode=0.01, train=0.1), num_validation=50)
    recipe = replace(
        recipe,
        data=replace(recipe.data, batch_size=10, num_repeats=1),
        schedule=replace(recipe.schedule, epochs=30, val_every=3, warmup_epochs=1.0),
    )
    # 30 epochs of 200 clips at 0.1 s, and 10 validations of 50 clips at a third of that.
    line = expected_time(recipe, found)
    assert line.startswith(
        "expected time: 10 minutes on cpu, at 10 ms to decode a clip and 100 ms to train on it"
    )


def test_batch_memory_and_workers_follow_precision_checkpointing_and_devices_of_the_user():
    """The context has a CUDA device, whatever this machine has."""
    base = context("base", each=1000)
    in_float32 = choose_settings(replace(base, precision="fp32"))
    assert value(in_float32, "run.grad_accum_steps") > value(choose_settings(base), "run.grad_accum_steps")
    recomputed = choose_settings(replace(base, grad_checkpointing=True))
    assert value(recomputed, "run.grad_accum_steps") < value(choose_settings(base), "run.grad_accum_steps")
    four = choose_settings(replace(base, devices=4))
    assert value(four, "run.grad_accum_steps") < value(choose_settings(base), "run.grad_accum_steps")
    three = choose_settings(replace(base, devices=3))
    assert value(three, "data.batch_size") % (3 * value(three, "run.grad_accum_steps")) == 0
    slow = replace(base, speed=SPEED, device="cuda")
    assert value(choose_settings(slow), "data.num_repeats") == 1
    assert value(choose_settings(replace(slow, workers=1)), "data.num_repeats") == 4
    assert value(choose_settings(replace(slow, workers=0)), "data.num_workers") == 0


def value(found, name):
    """Return the chosen value of a setting."""
    return next(choice.settings[name] for choice in found if name in choice.settings)


def test_class_weights_switch_balanced_sampling_off_and_the_reason_says_so():
    found = choose_settings(context(counts=(400, 100), class_weights=True))
    assert value(found, "data.class_balanced") is False
    assert any("you set optimizer.class_weights" in reason for _, reason in found)


def test_all_choices_follow_the_device_of_the_user(videos, monkeypatch):
    """`auto` would be another device, which the run must not use."""
    requested = []
    resolve = autoconfig.training_device

    def device(name):
        requested.append(name)
        return torch.device("meta") if name == "auto" else resolve(name)

    monkeypatch.setattr(autoconfig, "training_device", device)
    monkeypatch.setattr(autoconfig, "natural_precision", lambda kind: "fp32" if kind == "cpu" else kind)
    plan = plan_run("finetune", data=videos, init_from="camera-motion", settings={"run.device": "cpu"})
    assert plan.recipe.run.precision == "fp32"
    assert requested == ["cpu"]
    assert re.match(r"expected time: .* on cpu, ", plan.reasons[-1])


def test_memory_and_measured_speed_follow_the_precision_of_the_user(videos, monkeypatch):
    measured = []

    def speed(training, config, clip, trainable, device, precision):
        measured.append(precision)

    monkeypatch.setattr(autoconfig, "measure_speed", speed)
    monkeypatch.setattr(autoconfig, "natural_precision", lambda kind: "fp32")
    settings = {"run.precision": "bf16", "data.num_workers": "0"}
    plan = plan_run("finetune", data=videos, init_from="camera-motion", settings=settings)
    assert measured == ["bf16"]
    assert any(
        line.startswith(
            'run.precision="bf16", data.num_workers=0: you set run.precision and data.num_workers: '
        )
        for line in plan.reasons
    )
    with pytest.raises(ValueError, match=r"device must be .*, got 'gpux'"):
        build_recipe("finetune", data=videos, init_from="camera-motion", settings={"run.device": "gpux"})


@pytest.mark.parametrize(
    "facts",
    [
        {"model": "nano", "device": "cpu"},
        {"model": "tiny", "device": "cpu"},
        {"each": 5},
        {"each": 30},
        {"each": 500},
        {"each": 500, "num_validation": 100},
        {"classes": ("turn left", "run")},
    ],
)
def test_reasons_are_facts_in_plain_words(facts):
    for _, reason in choose_settings(context(**facts)):
        assert not re.search(
            r"by heart|bearable|spare|bear little|next to nothing|anew|learns? |wanted|whoever", reason
        ), reason
    stops = any("without better validation" in reason for _, reason in choose_settings(context(**facts)))
    assert stops == ("num_validation" in facts)


def test_a_resumed_run_keeps_the_settings_that_depend_on_measurements(tmp_path):
    assert read_measured_settings(tmp_path) == {}
    settings = {"data.num_repeats": 2, "data.batch_size": 32, "schedule.epochs": 3}
    (tmp_path / "recipe.json").write_text(json.dumps({"settings": settings}))
    assert read_measured_settings(tmp_path) == {"data.num_repeats": 2, "data.batch_size": 32}
