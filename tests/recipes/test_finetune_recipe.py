"""Fine-tuning chooses its numbers: each from the data, the start and the machine, and each with a reason."""

import json

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from videoswin.data.compression import write_h264
from videoswin.model.config import BASE, NANO, TINY
from videoswin.model.swin import VideoSwin
from videoswin.recipes import build_recipe
from videoswin.recipes.finetune import LARGEST_BATCH, choices, explain
from videoswin.recipes.situation import Situation, look_at, natural_precision
from videoswin.training.memory import estimate_training_bytes
from videoswin.training.recipe import VideoFiles
from videoswin.training.settings import flatten, recipe_json
from videoswin.video.spec import PER_CLIP, ClipSpec, ViewPlan
from videoswin.weights.checkpoint import Checkpoint


def checkpoint_of(config) -> Checkpoint:
    """Weights that are not there: only their sizes matter."""
    with torch.device("meta"):
        weights = VideoSwin(config).state_dict()
    labels = tuple(map(str, range(config.num_classes)))
    return Checkpoint(weights=weights, config=config, clip=ClipSpec(), views=ViewPlan(), labels=labels)


CHECKPOINTS = {"nano": checkpoint_of(NANO), "tiny": checkpoint_of(TINY), "base": checkpoint_of(BASE)}


def chosen(
    model="tiny", *, classes=("cook", "run"), each=100, counts=None, device="cuda", multi_label=False
) -> dict:
    """Every setting that is chosen for `each` videos of every class."""
    counts = counts or (each,) * len(classes)
    situation = Situation(
        checkpoint=CHECKPOINTS[model],
        classes=classes,
        counts=counts,
        videos=sum(counts),
        multi_label=multi_label,
        device=device,
        precision="bf16-mixed",
        cores=8,
    )
    pairs = [item for choice in choices(situation) for item in choice.settings.items()]
    assert len(dict(pairs)) == len(pairs), "a setting is chosen twice"
    return dict(pairs)


@pytest.mark.parametrize(
    ("model", "device", "classes", "each", "tune"),
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
def test_more_learns_from_more_videos_and_all_of_a_small_model(model, device, classes, each, tune):
    names = tuple(f"class {number}" for number in range(classes))
    assert chosen(model, classes=names, each=each, device=device)["model.tune"] == tune


@settings(max_examples=15)
@given(st.sampled_from(["nano", "tiny"]), st.integers(1, 400), st.sampled_from(["cpu", "cuda"]))
def test_however_many_videos_batches_fit_them_and_divide_and_there_is_time_to_learn(model, each, device):
    found = chosen(model, each=each, device=device)
    batch, repeats = found["data.batch_size"], found["data.source.repeats"]
    assert 1 <= batch // repeats <= 2 * each
    assert batch <= LARGEST_BATCH
    assert batch % (repeats * found["run.micro_batches"]) == 0
    epochs = found["schedule.epochs"]
    assert 1 <= epochs <= 100
    assert 0 < found["schedule.warmup_epochs"] < epochs
    assert found["schedule.patience"] >= 5


def test_without_a_gpu_a_large_model_gets_few_epochs():
    assert chosen("tiny", each=200, device="cpu")["schedule.epochs"] == 10
    assert chosen("tiny", each=20, device="cuda")["schedule.epochs"] > 10
    assert chosen("nano", each=20, device="cpu")["schedule.epochs"] > 10


def test_the_rate_grows_with_the_square_root_of_the_batch_up_to_the_published_one():
    small, large = chosen(each=16), chosen(each=2000)
    assert (small["data.batch_size"], large["data.batch_size"]) == (8, 64)
    assert large["optimizer.rate"] == 1e-3
    assert small["optimizer.rate"] == pytest.approx(1e-3 / 8**0.5, rel=0.05)


def test_a_small_model_learns_at_one_rate_and_a_large_one_slower_with_depth():
    nano, tiny, base = (chosen(model, each=500) for model in ("nano", "tiny", "base"))
    assert (nano["optimizer.backbone"], nano["optimizer.layer_decay"]) == (1.0, 1.0)
    assert (tiny["optimizer.backbone"], base["optimizer.backbone"]) == (0.1, 0.1)
    assert tiny["optimizer.layer_decay"] ** 12 == pytest.approx(0.3, abs=0.03)
    assert base["optimizer.layer_decay"] ** 24 == pytest.approx(0.3, abs=0.03)


def test_the_more_learns_the_more_clips_are_changed():
    head, lora, everything = (chosen(each=each) for each in (5, 30, 500))
    strength = [
        (1 - s["augment.area"][0], s["augment.rand_augment"], s["augment.erasing"], s["augment.mixup"])
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
def test_clips_are_mirrored_only_where_labels_stay_true(classes, flip, pairs):
    found = chosen(classes=classes)
    assert (found["augment.flip"], found["augment.flip_pairs"]) == (flip, pairs)


def test_classes_of_very_different_size_are_drawn_equally_often():
    assert chosen(counts=(400, 100))["data.source.balanced"] is True
    assert chosen(counts=(200, 100))["data.source.balanced"] is False
    assert chosen(counts=(400, 100), multi_label=True)["data.source.balanced"] is False


def test_targets_of_several_labels_are_not_smoothed():
    assert chosen()["augment.label_smoothing"] == 0.1
    assert chosen(multi_label=True)["augment.label_smoothing"] == 0


def test_a_step_fits_into_memory_by_estimate():
    found = chosen("base", each=1000)
    assert found["run.micro_batches"] > 1
    needed = [
        estimate_training_bytes(
            BASE,
            ClipSpec(),
            found["data.batch_size"] // parts,
            precision="bf16-mixed",
            checkpointing=False,
            tune="all",
            average=False,
            device_type="cuda",
        )
        for parts in (found["run.micro_batches"], found["run.micro_batches"] // 2)
    ]
    assert needed[0] <= 8 * 2**30 < needed[1]


def test_precision_is_what_the_hardware_has(monkeypatch):
    assert natural_precision("mps") == "32-true"
    for capabilities, precision in (({"avx512_bf16": True}, "bf16-mixed"), ({"avx2": True}, "32-true")):
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda found=capabilities: found)
        assert natural_precision("cpu") == precision
    for supported, precision in ((True, "bf16-mixed"), (False, "16-mixed")):
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


def test_nothing_more_than_videos_and_a_start_is_needed(videos):
    recipe = build_recipe("finetune", data=videos, start="camera-motion")
    start = Checkpoint.load("camera-motion")
    assert recipe.name == "my_videos-from-camera-motion"
    assert (recipe.data.clip, recipe.data.views) == (start.clip, start.views)
    assert recipe.data.clip.normalisation == PER_CLIP
    assert (recipe.model.start, recipe.model.config, recipe.model.tune) == ("camera-motion", None, "all")
    assert recipe.data.source.train == videos
    assert recipe.data.batch_size == 32  # four clips of each of the eight videos that are not held out
    assert recipe.augment.flip_pairs == (("walk left", "walk right"),)
    assert recipe.optimizer.groups == "clean"
    assert start.licence in recipe.run.licence


def test_what_is_held_back_is_not_counted(videos):
    assert look_at(VideoFiles(train=videos), "camera-motion").counts == (4, 4)
    assert look_at(VideoFiles(train=videos, validation=videos), "camera-motion").counts == (5, 5)


def test_every_choice_is_explained_with_its_value(videos):
    recipe = build_recipe("finetune", data=videos, start="camera-motion")
    lines = explain(recipe)
    assert lines[0].startswith('model.tune="all": the model is small')
    assert any(line.startswith("data.batch_size=32, data.source.repeats=4: 8 of 8 videos") for line in lines)
    assert not any("you set" in line for line in lines)
    assert max(map(len, lines)) <= 200


def test_what_was_set_by_hand_is_said_to_be(videos):
    recipe = build_recipe(
        "finetune",
        data=videos,
        start="camera-motion",
        settings={"schedule.epochs": "7", "model.tune": "head"},
    )
    lines = [line for line in explain(recipe) if "you set" in line]
    assert len(lines) == 2
    assert lines[0].startswith('model.tune="head": you set model.tune')
    assert recipe.schedule.warmup_epochs == pytest.approx(0.7)
    assert "schedule.epochs=7" in lines[1]


def test_one_video_a_class_is_trained_on_without_validation_where_that_is_asked_for(tmp_path):
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "0.mp4").touch()
    call = {"data": str(tmp_path), "start": "camera-motion"}
    with pytest.raises(ValueError, match=r"no video can be held out .* set data\.source\.holdout=0"):
        build_recipe("finetune", **call)
    recipe = build_recipe("finetune", **call, settings={"data.source.holdout": "0"})
    assert recipe.data.source.holdout == 0
    assert any("classes have 1 to 1 videos" in line for line in explain(recipe))
    for value in ("x", "2"):
        with pytest.raises(ValueError, match="holdout"):
            build_recipe("finetune", **call, settings={"data.source.holdout": value})


def test_only_a_recipe_with_files_and_a_start_is_explained():
    with pytest.raises(ValueError, match="camera-motion is no recipe for fine-tuning"):
        explain(build_recipe("camera-motion"))


def test_a_run_is_repeated_with_what_was_chosen_then(videos, tmp_path, monkeypatch):
    recipe = build_recipe("finetune", data=videos, start="camera-motion")
    (tmp_path / "recipe.json").write_text(
        json.dumps(recipe_json(recipe, "finetune", videos, "camera-motion"))
    )
    monkeypatch.setattr("videoswin.recipes.situation.natural_precision", lambda device: "16-mixed")
    assert flatten(build_recipe(str(tmp_path / "recipe.json"))) == flatten(recipe)


@pytest.mark.parametrize(
    ("data", "start", "message"),
    [
        ("nowhere/", "camera-motion", "nowhere/: there is no such"),
        ("", "camera-moton", "did you mean camera-motion"),
    ],
)
def test_wrong_videos_and_a_wrong_start_are_named(data, start, message, videos):
    with pytest.raises(ValueError, match=message):
        build_recipe("finetune", data=data or videos, start=start)
