"""Runs with video files: validation, the best checkpoint, and unreadable videos."""

import dataclasses
import json
import os
import re
import shutil

import pytest
import torch

from tests.training.small_runs import changed, stripes
from videoswin._errors import TrainingError
from videoswin.camera_motion.clips import write_h264
from videoswin.data import dataset
from videoswin.data.manifest import Sample
from videoswin.evaluation import plots
from videoswin.training import loop
from videoswin.training.data import open_data_source, read_inputs, video_name
from videoswin.training.recipe import VideoData
from videoswin.training.run_folder import RunFolder
from videoswin.video.spec import PER_CLIP, ClipSpec
from videoswin.weights.checkpoint import Checkpoint

CLIP = ClipSpec(frames=2, stride=1, size=16, short_side=16, normalization=PER_CLIP)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Write ten videos with horizontal stripes (`lying`) and ten with vertical ones (`standing`)."""
    folder = tmp_path_factory.mktemp("stripes")
    for label in ("lying", "standing"):
        (folder / label).mkdir()
        for seed in range(10):
            frames = torch.randint(0, 100, (6, 32, 32, 3), generator=torch.Generator().manual_seed(seed))
            frames[:, ::4] += 120
            frames = frames if label == "lying" else frames.transpose(1, 2)
            write_h264(folder / label / f"{seed}.mp4", frames.to(torch.uint8).contiguous(), fps=10, crf=18)
    return folder


def recipe(train, *, num_repeats=2, max_failure_fraction=0.05, **changes):
    made = stripes(run__log_every=2, augment__scale=(0.8, 1.0))
    data = VideoData(
        train=str(train),
        num_repeats=num_repeats,
        max_failure_fraction=max_failure_fraction,
        val_fraction=0.3,
        clip=CLIP,
        views=made.data.views,
        batch_size=8,
        num_workers=0,
    )
    return changed(dataclasses.replace(made, data=data), changes)


def rows(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_it_learns_from_files_and_keeps_the_checkpoint_that_validates_best(folder, tmp_path):
    best = loop.train(recipe(folder, schedule__epochs=6), tmp_path)
    assert best == tmp_path / "best.safetensors"
    scores = [row["val_score"] for row in rows(tmp_path) if "val_score" in row]
    assert len(scores) == 6
    assert max(scores) == 1.0
    assert Checkpoint.load(best).labels == ("lying", "standing")
    assert (tmp_path / "train.csv").exists()
    assert (tmp_path / "val.csv").exists()
    assert "SHA-256" in Checkpoint.load(best).lineage["trained on"]


def test_classes_are_drawn_as_they_are_unless_balance_is_asked_for(folder, tmp_path):
    lines = ["path,label"] + [f"{path},{path.parent.name}" for path in sorted(folder.rglob("*.mp4"))]
    (tmp_path / "list.csv").write_text("\n".join(lines[:14]) + "\n")  # ten lying, three standing
    made = recipe(tmp_path / "list.csv")
    inputs = read_inputs(made)
    assert open_data_source(made, inputs).sampling_weights() is None
    class_balanced = dataclasses.replace(made.data, class_balanced=True)
    source = open_data_source(dataclasses.replace(made, data=class_balanced), inputs)
    lying, standing = source.class_counts
    assert lying > 2 * standing
    weights = source.sampling_weights()
    of_lying = [w for w, s in zip(weights, source.training.samples, strict=True) if s.labels == (0,)]
    assert sum(of_lying) == pytest.approx(sum(weights) / 2)


def test_it_validates_as_seldom_as_it_is_told_and_at_the_end(folder, tmp_path):
    loop.train(recipe(folder, schedule__epochs=5, schedule__val_every=2), tmp_path)
    assert [row["epoch"] for row in rows(tmp_path) if "val_score" in row] == [2, 4, 5]


def test_it_stops_when_validation_no_longer_gets_better(folder, tmp_path, monkeypatch):
    class NoBetter:
        score, headline, failures = 0.5, "half", ()
        loss, score_interval, chance, chance_warning = 0.7, (0.2, 0.8), 0.5, None

    monkeypatch.setattr(loop, "validate", lambda *arguments: NoBetter())
    loop.train(recipe(folder, schedule__epochs=9, schedule__patience=2), tmp_path)
    assert max(row["epoch"] for row in rows(tmp_path) if "epoch" in row) == 3


def test_of_checkpoints_that_are_right_equally_often_the_one_with_the_lower_loss_is_kept(
    folder, tmp_path, monkeypatch
):
    losses = iter((0.7, 0.5, 0.6))

    class EquallyGood:
        score, headline, failures = 0.5, "half", ()
        score_interval, chance, chance_warning = (0.2, 0.8), 0.5, None

        def __init__(self):
            self.loss = next(losses)

    kept = []
    monkeypatch.setattr(loop, "validate", lambda *arguments: EquallyGood())
    save = Checkpoint.save
    monkeypatch.setattr(Checkpoint, "save", lambda self, path: (kept.append(path.name), save(self, path)))
    loop.train(recipe(folder, schedule__epochs=3), tmp_path)
    assert kept.count("best.safetensors") == 2  # of the first and of the second epoch


def test_the_end_says_how_sure_the_best_score_is_and_how_often_it_was_chosen(folder, tmp_path, capsys):
    loop.train(recipe(folder, schedule__epochs=2), tmp_path)
    said = capsys.readouterr().err
    assert re.search(
        r"epoch 1: validation loss \d\.\d{3}, top-1 [\d.]+ % \(95 % interval [\d.]+ to [\d.]+ %\) of "
        r"6 videos; chance 50",
        said,
    )
    assert re.search(
        r"best checkpoint: epoch \d, top-1 [\d.]+ % \(95 % interval .*\); it is the highest of 2 validations",
        said,
    )
    assert "; best checkpoint so far\n" in said
    (first, _) = [row for row in rows(tmp_path) if "val_score" in row]
    assert first["val_low"] <= first["val_score"] <= first["val_high"]
    assert first["chance"] == 0.5
    assert first["val_loss"] > 0


def test_curves_show_training_and_validation_loss_and_accuracy_from_0_to_1(folder, tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(
        plots, "draw_curves", lambda path, panels, **options: (drawn.append((panels, options)), path.touch())
    )
    loop.train(recipe(folder, schedule__epochs=2), tmp_path)
    panels, options = drawn[-1]
    assert options == {"fractions": ("accuracy",)}
    for name in ("loss", "accuracy"):
        assert panels[name].keys() == {"training", "validation"}
    losses = [row["val_loss"] for row in rows(tmp_path) if "val_loss" in row]
    assert panels["loss"]["validation"][1] == losses


def test_samples_have_the_name_of_their_video_and_their_labels(folder, tmp_path, monkeypatch):
    drawn, opened, read = [], [], dataset.open_video
    monkeypatch.setattr(plots, "draw_contact_sheet", lambda path, clips: (drawn.extend(clips), path.touch()))
    monkeypatch.setattr(dataset, "open_video", lambda path: (opened.append(path), read(path))[1])
    loop.train(recipe(folder, schedule__epochs=1), tmp_path)  # without workers: 4 videos, 2 clips of each
    captions = [caption for caption, _ in drawn]
    names = [caption.split("   target: ")[0] for caption in captions]
    assert names == ["/".join(path.split(os.sep)[-2:]) for path in opened[:4] for _ in range(2)]
    for name, caption in zip(names, captions, strict=True):
        assert caption.endswith(f"   target: {name.split('/')[0]} 100 %")


def test_the_name_of_a_video_is_shortened_in_the_middle_and_has_its_part():
    assert video_name(Sample(path="/a/b/c.mp4", labels=(0,))) == "b/c.mp4"
    part = Sample(path="c.mp4", labels=(0,), start_seconds=1.5, end_seconds=4.0)
    assert video_name(part) == "c.mp4, 1.5 s to 4 s"
    name = video_name(Sample(path=f"/walk/{'x' * 100}_0123.mp4", labels=(0,)))
    assert len(name) == 60
    assert (name[:6], name[-9:]) == ("walk/x", "_0123.mp4")


def broken_copy(folder, target, broken):
    """Copy the videos, and make the first `broken` ones of the class `lying` unreadable."""
    for path in folder.rglob("*.mp4"):
        copy = target / path.relative_to(folder)
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes(path.read_bytes())
    for seed in range(broken):
        (target / "lying" / f"{seed}.mp4").write_bytes(b"no video")
    return target


def test_a_video_that_cannot_be_read_is_named_once_and_replaced_by_none(folder, tmp_path):
    videos = broken_copy(folder, tmp_path / "videos", 1)
    made = recipe(videos, max_failure_fraction=0.2, schedule__epochs=4)
    source = dataclasses.replace(made.data, val_fraction=0.0)
    made = dataclasses.replace(made, data=source)
    assert loop.train(made, tmp_path / "run") == tmp_path / "run" / "last.safetensors"
    failures = [json.loads(line) for line in (tmp_path / "run" / "failures.jsonl").read_text().splitlines()]
    assert [failure["path"] for failure in failures] == [str(videos / "lying" / "0.mp4")]


def test_too_many_unreadable_videos_stop_the_run_and_one_is_named(folder, tmp_path):
    videos = broken_copy(folder, tmp_path / "videos", 6)
    with pytest.raises(TrainingError, match=r"cannot be read.*max_failure_fraction.*lying.\d\.mp4"):
        loop.train(recipe(videos), tmp_path / "run")


def test_the_test_split_is_never_looked_at(folder, tmp_path):
    lines = ["path,label,split"]
    for path in sorted(folder.rglob("*.mp4")):
        split = "test" if path.stem in ("8", "9") else "train"
        lines.append(f"{path if split == 'train' else path.with_name('gone.mp4')},{path.parent.name},{split}")
    (tmp_path / "list.csv").write_text("\n".join(lines) + "\n")
    loop.train(recipe(tmp_path / "list.csv"), tmp_path / "run")
    assert (tmp_path / "run" / "failures.jsonl").read_text() == ""


def test_a_single_class_is_refused_because_nothing_is_learned(folder, tmp_path):
    (tmp_path / "videos").mkdir()
    (tmp_path / "videos" / "lying").symlink_to(folder / "lying")
    with pytest.raises(ValueError, match=r"at least 2 classes .* got 1 \(lying\): .* learns nothing"):
        read_inputs(recipe(tmp_path / "videos"))


def test_class_weights_on_top_of_balanced_drawing_are_refused(folder, tmp_path):
    made = recipe(folder, optimizer__class_weights=True)
    source = dataclasses.replace(made.data, class_balanced=True)
    made = dataclasses.replace(made, data=source)
    with pytest.raises(ValueError, match=r"class_weights and data\.class_balanced count rare classes twice"):
        loop.train(made, tmp_path / "run")


def test_what_was_left_out_in_reading_is_said(folder, tmp_path, capsys):
    (tmp_path / "videos").mkdir()
    for name in ("lying", "standing"):
        (tmp_path / "videos" / name).mkdir()
        (tmp_path / "videos" / name / "link").symlink_to(folder / name)
    (tmp_path / "videos" / "lying" / "a.xyz").touch()
    loop.train(recipe(tmp_path / "videos", schedule__epochs=1), tmp_path / "run")
    assert capsys.readouterr().err.count("no videos: 1 .xyz, such as ") == 1


def test_a_flipped_direction_is_warned_of(folder, tmp_path, capsys):
    (tmp_path / "videos").mkdir()
    for old, new in (("lying", "turn left"), ("standing", "turn right")):
        (tmp_path / "videos" / new).symlink_to(folder / old)
    loop.train(recipe(tmp_path / "videos", schedule__epochs=1), tmp_path / "run")
    assert "augment.hflip=0" in capsys.readouterr().err
    pairs = (("turn left", "turn right"),)
    loop.train(
        recipe(tmp_path / "videos", schedule__epochs=1, augment__flip_pairs=pairs), tmp_path / "paired"
    )
    assert "augment.hflip=0" not in capsys.readouterr().err


def interrupted(made, out, monkeypatch):
    """Train until the end of the first epoch."""
    with monkeypatch.context() as patch:
        patch.setattr(loop, "validate", lambda *arguments: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            loop.train(made, out)


def test_a_run_resumes_wherever_its_videos_and_its_start_are_now(folder, tmp_path, monkeypatch):
    """Moved files and other spellings of their paths do not matter while names and labels are the same."""
    start = Checkpoint.load(loop.train(stripes(schedule__epochs=1), tmp_path / "start"))
    start.save(tmp_path / "start.safetensors")
    first = recipe(folder, model__init_from=str(tmp_path / "start.safetensors"), run__save_every=1)
    whole = loop.train(first, tmp_path / "whole")
    interrupted(first, tmp_path / "run", monkeypatch)
    shutil.copytree(folder, tmp_path / "moved")
    shutil.move(tmp_path / "start.safetensors", tmp_path / "moved.safetensors")
    monkeypatch.chdir(tmp_path)
    again = dataclasses.replace(recipe("./moved/", model__init_from="moved.safetensors"), name="renamed")
    resumed = loop.train(again, tmp_path / "run")
    ours, theirs = (Checkpoint.load(path).weights for path in (resumed, whole))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    assert loop.train(recipe("moved", model__init_from="./moved.safetensors"), tmp_path / "run") == resumed


def test_a_run_does_not_resume_on_other_videos_or_from_another_start(folder, tmp_path, monkeypatch):
    start = Checkpoint.load(loop.train(stripes(schedule__epochs=1), tmp_path / "start"))
    start.save(tmp_path / "start.safetensors")
    made = recipe(folder, model__init_from=str(tmp_path / "start.safetensors"), run__save_every=1)
    interrupted(made, tmp_path / "run", monkeypatch)
    shutil.copytree(folder, tmp_path / "other")
    (tmp_path / "other" / "lying" / "0.mp4").rename(tmp_path / "other" / "lying" / "another.mp4")
    with pytest.raises(ValueError, match=r"unfinished run that differs \(data: .* then, .* now"):
        loop.train(recipe(tmp_path / "other", model__init_from=made.model.init_from), tmp_path / "run")
    start.weights["head.bias"] += 1
    start.save(tmp_path / "start.safetensors")
    with pytest.raises(ValueError, match=r"differs \(init_from: .* then, .* now.*same settings to resume"):
        loop.train(made, tmp_path / "run")


def test_a_validation_that_is_repeated_after_an_interruption_is_recorded_once(folder, tmp_path, monkeypatch):
    made = recipe(folder, schedule__epochs=2)
    with monkeypatch.context() as patch:
        patch.setattr(RunFolder, "save_checkpoint", lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            loop.train(made, tmp_path)
    loop.train(made, tmp_path)
    assert [row["epoch"] for row in rows(tmp_path) if "val_score" in row] == [1, 2]


def test_a_run_that_diverges_says_so_and_not_that_weights_are_damaged(folder, tmp_path):
    one_step = recipe(folder, optimizer__lr=1e30, data__batch_size=28, schedule__warmup_epochs=0.0)
    with pytest.raises(TrainingError, match=r"scores .* are NaN or infinite.*optimizer\.lr") as caught:
        loop.train(one_step, tmp_path)
    assert "damaged" not in str(caught.value)
    assert "\n" not in str(caught.value)
