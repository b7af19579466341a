"""Killed and stopped runs resume, with the result of an uninterrupted run."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.training.small_runs import stripes
from videoswin.training import loop

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def forked_runs(tmp_path_factory):
    """Run the program killed_runs.py."""
    if not hasattr(os, "fork"):
        pytest.skip("the runs are forked to save time")
    command = [sys.executable, "-m", "tests.training.killed_runs", str(tmp_path_factory.mktemp("killed"))]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "NotImplementedError: no such kernel" in done.stderr
    return json.loads(done.stdout)


def test_after_any_kill_losses_and_weights_are_those_of_the_uninterrupted_run(forked_runs):
    assert forked_runs["kills"] >= 12
    whole = forked_runs["whole"]
    assert [step for step, _ in whole["losses"]] == [5, 10, 15, 20, 25, 30, 35, 40]
    assert forked_runs["killed"] == whole


def test_a_program_that_an_exception_in_training_ends_does_not_wait_for_its_workers(forked_runs):
    assert forked_runs["crashed"] == 1


def test_after_sigterm_the_same_call_resumes_to_the_same_end(tmp_path, monkeypatch, complete_run):
    training_step = loop.training_step

    def asked_at_step_13(learner, batch, step):
        if step == 12:
            os.kill(os.getpid(), signal.SIGTERM)
        return training_step(learner, batch, step)

    before = signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr(loop, "training_step", asked_at_step_13)
    assert loop.train(stripes(run__save_every=1000), tmp_path / "stopped") is None
    assert signal.getsignal(signal.SIGTERM) is before
    monkeypatch.undo()
    assert (tmp_path / "stopped" / "state.pt").exists()
    resumed = loop.train(stripes(run__save_every=1000), tmp_path / "stopped")
    assert resumed.read_bytes() == complete_run.checkpoint.read_bytes()
    assert not (tmp_path / "stopped" / "state.pt").exists()


def test_a_run_does_not_go_on_from_one_of_another_recipe(tmp_path, monkeypatch):
    monkeypatch.setattr(loop, "validate", lambda *arguments: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        loop.train(stripes(), tmp_path)
    with pytest.raises(ValueError, match=r"run\.seed: 0 then, 1 now"):
        loop.train(stripes(run__seed=1), tmp_path)


def test_a_run_goes_on_with_other_workers_and_threads(tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(loop, "validate", lambda *arguments: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            loop.train(stripes(), tmp_path)
    assert (
        loop.train(stripes(data__num_workers=1, run__save_every=7), tmp_path) == tmp_path / "last.safetensors"
    )


def test_a_finished_run_is_not_trained_again(complete_run):
    written = complete_run.checkpoint.stat().st_mtime_ns
    assert loop.train(stripes(data__num_workers=1), complete_run.folder) == complete_run.checkpoint
    assert complete_run.checkpoint.stat().st_mtime_ns == written


def test_a_finished_run_is_not_taken_for_another(complete_run):
    with pytest.raises(ValueError, match=r"finished run with another optimizer\.lr"):
        loop.train(stripes(optimizer__lr=0.02), complete_run.folder)


def test_what_a_killed_run_left_half_written_is_cleared_away(tmp_path):
    (tmp_path / ".state.pt.123.part").write_bytes(b"half")
    loop.train(stripes(), tmp_path)
    assert list(tmp_path.glob(".*")) == [tmp_path / ".lock"]
