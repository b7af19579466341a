"""Two processes, or several micro-batches, learn what one learns from the whole batch."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from videoswin.weights.checkpoint import Checkpoint

ROOT = Path(__file__).parents[2]


pytestmark = pytest.mark.timeout(300)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    if not hasattr(os, "fork"):
        pytest.skip("the runs are forked to save time")
    folder = tmp_path_factory.mktemp("runs")
    command = [sys.executable, "-m", "tests.training.two_processes", str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return folder


def losses(run: Path) -> list[float]:
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [row["loss"] for row in rows if "loss" in row]


@pytest.mark.parametrize("other", ["micro-batches", "two", "two-micro-batches"])
def test_the_losses_are_those_of_one_process_with_the_same_batch(folder, other):
    one = losses(folder / "one")
    assert len(one) == 8
    assert one[-1] < 0.5 * one[0], "nothing was learned, so equal losses would say nothing"
    assert losses(folder / other) == pytest.approx(one, abs=1e-5)


@pytest.mark.parametrize("other", ["micro-batches", "two", "two-micro-batches"])
def test_the_weights_are_those_of_one_process(folder, other):
    one, others = (Checkpoint.load(folder / run / "last.safetensors").weights for run in ("one", other))
    # Sums in another order differ in the last digits, and AdamW divides small gradients by their own size.
    assert all(torch.allclose(one[name], others[name], atol=1e-3) for name in one)
