"""The loop learns, repeats itself, goes on where it stopped, and writes a checkpoint that says what it is."""

import dataclasses

import pytest
import torch
from torch import Tensor
from torch.utils.data import Dataset

from videoswin.model.config import VideoSwinConfig
from videoswin.training import loop
from videoswin.training.optimizer import initialize_from_scratch
from videoswin.training.recipe import Augment, Data, Model, Optimizer, Recipe, Run, Schedule
from videoswin.video.spec import PER_CLIP, ClipSpec, ViewPlan
from videoswin.weights.checkpoint import Checkpoint

CLIP = ClipSpec(frames=2, stride=1, size=8, short_side=8, normalisation=PER_CLIP)


class Stripes(Dataset[tuple[Tensor, Tensor]]):
    """Clips with lying (0) or standing (1) stripes: items are uint8 (2, 3, 2, 8, 8) and labels (2,)."""

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def __len__(self) -> int:
        return 10_000

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        random = torch.Generator().manual_seed(1000 * self.seed + index)
        clip = torch.randint(0, 100, (3, 2, 8, 8), generator=random, dtype=torch.uint8)
        clip[..., ::2, :] += 100
        return torch.stack([clip, clip.transpose(-1, -2)]), torch.tensor([0, 1])


@pytest.fixture
def recipe() -> Recipe:
    config = VideoSwinConfig(embed_dim=8, depths=(1,), num_heads=(1,), window=(1, 2, 2), num_classes=2)
    return Recipe(
        name="stripes",
        data=Data(
            clips=Stripes,
            source="noise with stripes",
            labels=("lying", "standing"),
            clip=CLIP,
            views=ViewPlan(clips=1, crops=1),
            items_per_step=4,
            workers=0,
        ),
        model=Model(config=config, initialize=initialize_from_scratch),
        augment=Augment(label_smoothing=0.0),
        optimizer=Optimizer(peak_rate=0.01, weight_decay=0.01, largest_gradient=1.0, averaging=0.9),
        schedule=Schedule(steps=40, warmup_steps=5),
        run=Run(command="test", licence="Apache-2.0", seed=0, precision="32-true", threads=1),
    )


def test_a_run_does_not_go_on_from_one_of_another_recipe(recipe, tmp_path, monkeypatch):
    monkeypatch.setattr(loop, "STATE_EVERY", 10)
    saved = loop.save_state

    def stop_after_the_first(*arguments):
        saved(*arguments)
        raise KeyboardInterrupt

    monkeypatch.setattr(loop, "save_state", stop_after_the_first)
    with pytest.raises(KeyboardInterrupt):
        loop.train(recipe, tmp_path)
    other = dataclasses.replace(recipe, run=dataclasses.replace(recipe.run, seed=1))
    with pytest.raises(ValueError, match="another recipe"):
        loop.train(other, tmp_path)


def test_a_finished_run_leaves_its_log_and_checkpoint_and_nothing_else(recipe, tmp_path, monkeypatch):
    monkeypatch.setattr(loop, "STATE_EVERY", 10)
    monkeypatch.setattr(loop, "REPORT_EVERY", 20)
    loop.train(recipe, tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["log.txt", "stripes.safetensors"]
    lines = (tmp_path / "log.txt").read_text().splitlines()
    assert [line.split()[:2] for line in lines] == [["step", "20"], ["step", "40"]]


def accuracy(checkpoint: Checkpoint) -> float:
    clips, labels = loop.joined([Stripes(99)[index] for index in range(20)])
    logits = checkpoint.model()(loop.normalize(clips, CLIP.normalisation))
    return float((logits.argmax(1) == labels).float().mean())


def test_it_learns(recipe, tmp_path):
    checkpoint = Checkpoint.load(loop.train(recipe, tmp_path))
    assert accuracy(checkpoint) == 1.0


def test_the_checkpoint_knows_what_it_is(recipe, tmp_path):
    checkpoint = Checkpoint.load(loop.train(recipe, tmp_path))
    assert checkpoint.labels == ("lying", "standing")
    assert checkpoint.clip == recipe.data.clip
    assert checkpoint.views == recipe.data.views
    assert checkpoint.lineage == {"command": "test", "trained on": "noise with stripes"}
    assert (checkpoint.name, checkpoint.licence) == ("stripes", "Apache-2.0")


def test_the_same_seed_gives_the_same_weights(recipe, tmp_path):
    first, second = (Checkpoint.load(loop.train(recipe, tmp_path / name)).weights for name in "ab")
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_another_seed_gives_other_weights(recipe, tmp_path):
    other = dataclasses.replace(recipe, run=dataclasses.replace(recipe.run, seed=1))
    first = Checkpoint.load(loop.train(recipe, tmp_path / "first")).weights
    second = Checkpoint.load(loop.train(other, tmp_path / "second")).weights
    assert not torch.equal(first["head.weight"], second["head.weight"])


def test_an_interrupted_run_ends_as_if_it_had_not_been(recipe, tmp_path, monkeypatch):
    monkeypatch.setattr(loop, "STATE_EVERY", 10)
    whole = Checkpoint.load(loop.train(recipe, tmp_path / "whole")).weights

    def interrupted(*arguments):
        for step, batch in enumerate(batches(*arguments)):
            if step == 25:
                raise KeyboardInterrupt
            yield batch

    batches = loop.batches
    monkeypatch.setattr(loop, "batches", interrupted)
    with pytest.raises(KeyboardInterrupt):
        loop.train(recipe, tmp_path / "parts")
    monkeypatch.setattr(loop, "batches", batches)
    resumed = Checkpoint.load(loop.train(recipe, tmp_path / "parts")).weights
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)
