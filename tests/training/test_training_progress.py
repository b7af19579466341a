"""Progress of a run without a terminal, and data workers without shared memory."""

import re
from pathlib import Path

import pytest

from tests.training.small_runs import stripes
from videoswin.training.loop import train


def test_lines_of_a_log_tell_the_steps_the_time_left_and_what_was_learned(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    train(stripes(), tmp_path)
    lines = capfd.readouterr().err.splitlines()
    assert lines[0] == "train: 40 steps"
    (report,) = (line for line in lines if line.startswith("train: 5 of 40 steps (12 %), "))
    assert re.search(
        r"steps/s, .* left, epoch 0\.25, loss [\d.]+, acc \d+%, .* clips/s, waiting for data \d+%$", report
    )


def test_too_little_shared_memory_is_told_and_does_not_stop_a_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("videoswin._distributed.free_shared_memory", lambda: 0)
    best = train(stripes(data__num_workers=1, schedule__epochs=1), tmp_path)
    assert best is not None
    assert best.exists()
    assert "/dev/shm has 0 MB free, but workers=1 needs up to 1 MB" in capfd.readouterr().err
