"""Training reduces the loss, is reproducible, and documents itself in the run folder."""

import dataclasses
import json
import re

import pytest
import torch

from tests.training.small_runs import CLIP, LABELS, Stripes, stripes
from videoswin._errors import InputError, TrainingError
from videoswin.data.dataset import Batch, Draw, Failure, collate
from videoswin.model.swin import VideoSwin
from videoswin.training import loop
from videoswin.training.data import open_data_source, read_inputs
from videoswin.training.learner import _choose_diverse as different
from videoswin.training.learner import build_learner, launch_fabric
from videoswin.training.settings import flatten
from videoswin.video.views import normalize
from videoswin.weights.checkpoint import Checkpoint


def rows(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def learner_of(recipe):
    source = open_data_source(recipe, read_inputs(recipe))
    return build_learner(recipe, source, None, launch_fabric(recipe.run), steps_per_epoch=10)


def accuracy(checkpoint: Checkpoint) -> float:
    batch = collate([Stripes(99)[Draw(7, index)] for index in range(20)])
    logits = checkpoint.model()(normalize(batch.clips, CLIP.normalization))
    return float((logits.argmax(1) == batch.targets).float().mean())


def test_it_learns(complete_run):
    assert accuracy(Checkpoint.load(complete_run.checkpoint)) == 1.0


def test_the_checkpoint_knows_what_it_is(complete_run):
    recipe, checkpoint = stripes(), Checkpoint.load(complete_run.checkpoint)
    assert checkpoint.labels == LABELS
    assert checkpoint.clip == recipe.data.clip
    assert checkpoint.views == recipe.data.views
    assert checkpoint.lineage == {"started from": "random weights", "trained on": "noise with stripes"}
    assert (checkpoint.name, checkpoint.license) == ("stripes", "Apache-2.0")


def test_it_keeps_the_averaged_weights_where_the_recipe_averages(tmp_path, complete_run):
    last = Checkpoint.load(loop.train(stripes(optimizer__ema_decay=None), tmp_path / "last")).weights
    average = Checkpoint.load(complete_run.checkpoint).weights
    assert not torch.equal(last["head.weight"], average["head.weight"])
    assert torch.allclose(last["head.weight"], average["head.weight"], atol=0.05)


def test_the_same_seed_gives_the_same_weights_and_another_seed_others(tmp_path, complete_run):
    first = Checkpoint.load(complete_run.checkpoint).weights
    again, other = (
        Checkpoint.load(loop.train(stripes(run__seed=seed), tmp_path / name)).weights
        for name, seed in (("again", 0), ("other", 1))
    )
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["head.weight"], other["head.weight"])


def test_a_finished_run_leaves_its_metrics_pictures_and_checkpoint_and_no_state(tmp_path, real_pictures):
    loop.train(stripes(), tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {
        ".lock",
        "curves.png",
        "environment.json",
        "failures.jsonl",
        "last.safetensors",
        "metrics.jsonl",
        "recipe.json",
        "samples.png",
        "tensorboard",
    }
    *reports, last = rows(tmp_path)
    assert last == {"step": 40, "finished": True, "data": "noise with stripes"}
    assert [row["step"] for row in reports] == [5, 10, 15, 20, 25, 30, 35, 40]
    assert [row["epoch"] for row in reports] == [0.25, 0.5, 0.75, 1.0, 1.25, 1.5, 1.75, 2.0]
    assert set(reports[0]) == {
        "step",
        "epoch",
        "num_steps",
        "loss",
        "accuracy",
        "lr",
        "clips_per_second",
        "data_wait",
    }
    assert (tmp_path / "samples.png").read_bytes().startswith(b"\x89PNG")
    assert json.loads((tmp_path / "environment.json").read_text())["libraries"]["torch"]


def test_before_it_starts_it_says_rates_decay_and_memory(complete_run):
    said = complete_run.log
    assert "backbone, weight decay" in said
    assert "lr 1.0e-02" in said
    assert re.search(r"memory: about \d+ MiB for 16 clips at a time", said)


def test_without_validation_it_says_which_checkpoint_is_kept(complete_run):
    assert complete_run.checkpoint.name == "last.safetensors"
    said = complete_run.log
    assert "no validation: the accuracy on other videos is not measured" in said
    assert "the checkpoint of the last step, last.safetensors, is kept" in said
    assert "0 videos" not in said


def test_the_learning_rate_in_the_metrics_is_that_of_the_step(tmp_path):
    """The schedule reaches 0 after the last step, not in it."""
    loop.train(stripes(run__log_every=1, schedule__warmup_epochs=0.0), tmp_path)
    rates = [row["lr"] for row in rows(tmp_path) if "lr" in row]
    assert rates[0] == pytest.approx(0.01)
    assert rates == sorted(rates, reverse=True)
    assert 0 < rates[-1] < 1e-3


def test_without_weights_to_start_from_it_refuses(tmp_path):
    with pytest.raises(ValueError, match=r"no initial weights: .*--model or model\.init_from"):
        loop.train(stripes(model__initialize=None), tmp_path)


def test_a_name_that_no_checkpoint_may_have_is_refused_before_the_first_step(tmp_path):
    with pytest.raises(ValueError, match=r"name must be printable text"):
        loop.train(dataclasses.replace(stripes(), name="red\x1b[31m"), tmp_path)
    assert not (tmp_path / "metrics.jsonl").exists()


def test_a_batch_that_cannot_be_dealt_out_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"data\.batch_size must be a multiple of 6 .*, got 16"):
        loop.train(stripes(run__grad_accum_steps=3), tmp_path)


def test_generated_clips_of_another_size_than_the_recipe_says_are_refused(tmp_path):
    with pytest.raises(
        ValueError, match=r"must have the shape of data\.clip, \(3, 4, 8, 8\), got \(3, 2, 8, 8\).*data\.clip"
    ):
        loop.train(stripes(data__clip=CLIP.replace(frames=4)), tmp_path)


def test_a_loss_that_is_not_a_number_stops_the_run_and_keeps_what_was_saved(tmp_path, monkeypatch):
    step = loop.training_step

    def broken_at_step_24(learner, batch, number):
        if number == 24:
            learner.raw_model.head.weight.data.fill_(float("nan"))
        return step(learner, batch, number)

    monkeypatch.setattr(loop, "training_step", broken_at_step_24)
    with pytest.raises(TrainingError, match=r"step 25 is NaN or infinite.*optimizer\.lr"):
        loop.train(stripes(), tmp_path)
    checkpoint = Checkpoint.load(tmp_path / "last.safetensors")  # of the end of the first epoch
    assert all(tensor.isfinite().all() for tensor in checkpoint.weights.values())
    monkeypatch.undo()
    assert loop.train(stripes(), tmp_path) == tmp_path / "last.safetensors"


def test_lines_of_the_log_have_the_steps_the_time_left_and_the_metrics(complete_run):
    lines = complete_run.log.splitlines()
    assert lines[0] == "train: 40 steps"
    (report,) = (line for line in lines if line.startswith("train: 5 of 40 steps (12 %), "))
    assert re.search(
        r"steps/s, .* left, epoch 0\.25, loss [\d.]+, acc \d+%, .* clips/s, waiting for data \d+%$", report
    )


def test_too_little_shared_memory_is_told_and_does_not_stop_a_run(tmp_path, monkeypatch, capfd):
    monkeypatch.setattr("videoswin._distributed.free_shared_memory", lambda: 0)
    assert loop.train(stripes(data__num_workers=1, schedule__epochs=1), tmp_path).exists()
    assert "/dev/shm has 0 MB free, but workers=1 needs up to 1 MB" in capfd.readouterr().err


def test_a_first_loss_far_from_even_odds_is_said(tmp_path, capsys, complete_run):
    def too_sure(model):
        model.head.weight.data.mul_(1000)

    loop.train(stripes(model__initialize=too_sure, schedule__epochs=1), tmp_path / "sure")
    assert "the initial loss is" in capsys.readouterr().err
    assert "the initial loss is" not in complete_run.log


def test_clips_that_do_not_count_teach_nothing(tmp_path):
    """A blank clip of an unreadable video changes neither the loss nor a weight."""

    def weights_after(batch):
        recipe = stripes(model__drop_path=0.0, model__dropout=0.0)
        learner = learner_of(recipe)
        return loop.training_step(learner, batch, 0), learner.raw_model.head.weight

    batch = collate([Stripes(0)[Draw(0, index)] for index in range(4)])
    blank = Batch(
        torch.cat([batch.clips, torch.zeros_like(batch.clips[:2])]),
        torch.cat([batch.targets, batch.targets[:2]]),
        torch.cat([batch.weights, torch.zeros(2)]),
        [Failure("broken.mp4", "test")],
    )
    (ours, our_weights), (theirs, their_weights) = weights_after(batch), weights_after(blank)
    assert torch.allclose(ours, theirs, atol=1e-6)
    assert torch.allclose(our_weights, their_weights, atol=1e-6)


@pytest.mark.parametrize("parts", [2, 8])
def test_micro_batches_of_a_mixed_batch_learn_what_the_whole_batch_does(parts):
    def step_of(recipe):
        learner = learner_of(recipe)
        batch = collate([Stripes(0)[Draw(0, index)] for index in range(4)])
        return loop.training_step(learner, batch, 0), learner.raw_model.stages[0].blocks[0].attn.qkv.weight

    still = {"model__drop_path": 0.0, "model__dropout": 0.0, "augment__mixup": 0.8, "augment__cutmix": 1.0}
    full_tensor, whole_weight = step_of(stripes(**still))
    result, weight = step_of(stripes(**still, run__grad_accum_steps=parts))
    assert torch.allclose(result, full_tensor, atol=1e-6)
    # AdamW's first step moves every weight by the rate, whichever way its gradient points.
    assert torch.allclose(weight, whole_weight, atol=1e-4)


def test_frozen_stages_keep_their_weights_and_the_rest_learns(tmp_path):
    config = stripes().model.config.replace(depths=(1, 1), num_heads=(1, 2))
    frozen = stripes(model__config=config, model__frozen_stages=1, optimizer__ema_decay=None)
    loop.train(frozen, tmp_path / "run")
    torch.manual_seed(frozen.run.seed)
    start = VideoSwin(config.replace(num_classes=2))
    frozen.model.initialize(start)
    weights = Checkpoint.load(tmp_path / "run" / "last.safetensors").weights
    same = {name for name, tensor in start.state_dict().items() if torch.equal(weights[name], tensor)}
    frozen_names = {name for name in weights if name.startswith(("patch_embed.", "stages.0."))}
    # In a map of one token no bias of attention matters.
    assert same - {"stages.1.blocks.0.attn.relative_position_bias_table"} == frozen_names


def test_more_frozen_stages_than_there_are_are_refused(tmp_path):
    with pytest.raises(InputError, match=r"model\.frozen_stages must be from -1 to 1, got 2"):
        loop.train(stripes(model__frozen_stages=2), tmp_path / "run")


def test_lines_of_metrics_are_means_of_equally_many_steps_but_for_the_last(tmp_path):
    loop.train(stripes(run__log_every=12), tmp_path)  # an epoch has 20 steps
    assert [(row["step"], row["num_steps"]) for row in rows(tmp_path) if "loss" in row] == [
        (12, 12),
        (24, 12),
        (36, 12),
        (40, 4),
    ]


@pytest.mark.parametrize(
    ("labels", "num_repeats", "places"),
    [
        ([0, 0, 0, 0, 1, 1, 1, 1], 1, [0, 1, 4, 5]),
        ([0, 0, 0, 0, 1, 1, 2, 2], 2, [0, 2, 4, 6]),
        ([0, 0, 0, 0, 0, 0, 1, 2], 1, [0, 1, 6, 7]),
        ([0, 1], 1, [0, 1]),
    ],
)
def test_samples_are_of_different_videos_and_classes(labels, num_repeats, places):
    assert different(torch.tensor(labels), num_repeats, 4) == places


def test_all_processes_train_with_the_settings_of_the_first(monkeypatch):
    first, second = stripes(), stripes(optimizer__lr=0.02, data__batch_size=8)
    both = [flatten(first), flatten(second)]
    monkeypatch.setattr(loop, "from_all_ranks", lambda own: both if own == both[1] else [own])
    assert flatten(loop.broadcast_settings(second)) == both[0]
    assert loop.broadcast_settings(first) is first  # alone
