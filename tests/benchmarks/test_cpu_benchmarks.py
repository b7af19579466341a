"""Scripts that measure a CPU run, at sizes where their numbers mean nothing."""

import json
import re
import subprocess
import sys
from itertools import product
from pathlib import Path

import pytest
import torch

from benchmarks import (
    approximate_views,
    attention_cpu,
    file_to_prediction,
    measure,
    reading,
    scaling_cpu,
    systems,
    training,
)
from benchmarks.peers import torchvision_like
from videoswin.model.config import VideoSwinConfig

NARROW = VideoSwinConfig(embed_dim=16, depths=(2, 2, 2, 2), num_heads=(1, 2, 4, 8))
"""Takes the place of Swin-T; tests/parity compares the published sizes."""


@pytest.fixture(autouse=True)
def narrow_models_in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(systems.CONFIGS, "t", NARROW)
    for script in (attention_cpu, systems, training):
        monkeypatch.setattr(script, "TINY", NARROW)
    for script in (attention_cpu, scaling_cpu, training):
        monkeypatch.setattr(script, "torchvision_swin3d", lambda ours, variant: torchvision_like(ours))
    for script in (scaling_cpu, training):
        monkeypatch.setattr(script, "in_fresh_process", lambda *_: {"peak_mib": 1})
    monkeypatch.setattr(torch, "set_num_threads", lambda _: None)  # of the other tests, too


@torch.inference_mode()
def test_attention_of_the_last_stage_is_compared() -> None:
    rows = attention_cpu.compare(3, 1, rounds=1)
    assert {(row["system"], row["precision"]) for row in rows} == set(
        product(attention_cpu.SYSTEMS, ("float32", "bfloat16"))
    )
    assert all(row["backend"] for row in rows)


@torch.inference_mode()
def test_clips_of_a_size_are_compared() -> None:
    rows = scaling_cpu.measure(2, 32, ("videoswin t", "torchvision t"))
    assert rows["torchvision t"]["times_torchvision t_quartiles"] == [1.0, 1.0]
    assert rows["videoswin t"]["relative_logit_difference"] < scaling_cpu.MAX_DIFFERENCE
    figures = scaling_cpu.memory("videoswin t", 2, 32)
    assert figures["peak_mib"] > figures["peak_mib_added_by_forward"] >= 0


def test_training_steps_are_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training, "SHAPES", {"tiny": (1, 3, 2, 32, 32)})
    rows = training.compare("tiny", rounds=1)
    assert [(row["dtype"], row["system"]) for row in rows] == list(product(training.DTYPES, training.SYSTEMS))
    assert all(row["backend"] and row["seconds_median"] > 0 for row in rows)


def test_files_are_predicted_as_views_in_memory_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(file_to_prediction, "MOST_VIDEOS", 2)
    monkeypatch.setattr(file_to_prediction, "SECONDS", 1.0)
    films = file_to_prediction.write_films(tmp_path)
    case = file_to_prediction.Case("bundled", file_to_prediction.camera_motion, 2)
    row = file_to_prediction.measured(case, "cpu", 1, 2, films)
    assert row["largest_difference"] == 0
    assert row["of_the_slower"]["median"] > 0


def test_a_film_is_looked_at_in_every_way() -> None:
    row = approximate_views.looked_at("no folder: film 0 is of photographs", 0)
    margins = [approximate_views.adaptive(margin) for margin in approximate_views.MARGINS]
    assert list(row["ways"]) == [*approximate_views.WAYS, *margins]
    assert row["ways"][approximate_views.EXACT]["views"] == 12
    assert approximate_views.summary([row])[approximate_views.EXACT]["agrees_with_exact"] == 1


def test_films_of_other_code_are_not_mixed_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(approximate_views, "circumstances", lambda: {"commit": "abc1234"})
    progress = tmp_path / "progress.jsonl"
    for row in ({"number": 0, "commit": "abc1234+"}, {"number": 0, "commit": "older"}, {"number": 0}):
        progress.write_text(json.dumps(row) + "\n")
        monkeypatch.setattr(sys, "argv", ["approximate_views.py", "--progress", str(progress)])
        with pytest.raises(SystemExit, match="remove it to start again"):
            approximate_views.main()


def test_changed_code_marks_a_commit_and_changed_figures_do_not(tmp_path: Path) -> None:
    for name in ("videoswin/swin.py", "benchmarks/results/model.json", "docs/performance.md"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("as it was")
    identity = ("-c", "user.name=a", "-c", "user.email=a@b")
    for arguments in (("init", "-q"), ("add", "."), (*identity, "commit", "-qm", "all")):
        subprocess.run(["git", *arguments], cwd=tmp_path, check=True)
    commit = measure.commit_of(tmp_path)
    assert re.fullmatch("[0-9a-f]{7,}", commit)
    (tmp_path / "benchmarks/results/model.json").write_text("measured anew")
    (tmp_path / "docs/performance.md").write_text("written anew")
    assert measure.commit_of(tmp_path) == commit
    (tmp_path / "videoswin/swin.py").write_text("faster")
    assert measure.commit_of(tmp_path) == f"{commit}+"


def test_every_step_of_reading_is_timed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"HEIGHT": 240, "WIDTH": 320, "FRAMES": 2}.items():
        monkeypatch.setattr(reading, name, value)
    reading.write_film(tmp_path / "film.mp4")
    rows = {row["step"]: row for row in reading.measured(tmp_path / "film.mp4", rounds=1)}
    assert {"decode", "convert", "convert with accurate_rnd", "resize"} <= rows.keys()
    in_scaler = rows["convert and resize in the scaler, bilinear"]
    assert 0 < in_scaler["difference_from_resize with antialias"]["mean"] < 10
