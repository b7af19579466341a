"""Training with two processes or with micro-batches gives the result of one process with the whole batch."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from videoswin.weights.checkpoint import Checkpoint

ROOT = Path(__file__).parents[2]

EQUAL = [
    ("one", "micro-batches"),
    ("one", "two"),
    ("one", "two-micro-batches"),
    ("one", "sharded"),
    ("one", "one-then-sharded"),
    ("one", "sharded-then-one"),
    ("lora", "sharded-lora"),
]
"""Pairs of runs with the same result; see two_processes.py."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    if not hasattr(os, "fork"):
        pytest.skip("the runs are forked to save time")
    folder = tmp_path_factory.mktemp("runs")
    command = [sys.executable, "-m", "tests.training.two_processes", str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    (folder / "stderr").write_text(done.stderr)
    return folder


def losses(run: Path) -> list[float]:
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [row["loss"] for row in rows if "loss" in row]


def weights(run: Path) -> dict[str, torch.Tensor]:
    return Checkpoint.load(run / "last.safetensors").weights


def without_key_biases(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Remove key biases, which softmax ignores: their gradient is rounding error, which AdamW scales up."""
    queries_and_values = {
        name: torch.stack([bias.chunk(3)[0], bias.chunk(3)[2]])
        for name, bias in weights.items()
        if name.endswith("qkv.bias")
    }
    return weights | queries_and_values


@pytest.mark.parametrize(("run", "other"), EQUAL)
def test_the_losses_are_those_of_one_process_with_the_same_batch(folder, run, other):
    one = losses(folder / run)
    assert len(one) == 4
    assert one[-1] < 0.5 * one[0], "the loss did not fall, so equal losses prove nothing"
    assert losses(folder / other) == pytest.approx(one, abs=1e-5)


@pytest.mark.parametrize(("run", "other"), EQUAL)
def test_the_averaged_weights_are_those_of_one_process(folder, run, other):
    one, others = (without_key_biases(weights(folder / name)) for name in (run, other))
    assert one.keys() == others.keys()
    for name in one:
        torch.testing.assert_close(others[name], one[name], atol=1e-5, rtol=1e-5, msg=name)


def test_a_sharded_run_that_was_stopped_ends_bit_for_bit_as_if_it_had_not_been(folder):
    assert losses(folder / "sharded-then-sharded") == losses(folder / "sharded")
    full_tensor = (folder / "sharded" / "last.safetensors").read_bytes()
    assert (folder / "sharded-then-sharded" / "last.safetensors").read_bytes() == full_tensor


def test_a_sharded_state_is_whole_and_has_the_names_of_an_unsharded_one(folder):
    one, sharded = (
        torch.load(folder / f"stopped-{name}" / "state.pt", weights_only=True)["parts"]
        for name in ("one", "sharded")
    )
    assert one.keys() == sharded.keys()
    for part in ("weights", "moments"):
        ours, theirs = (shapes(state["learning"][part]) for state in (one, sharded))
        assert ours == theirs
    assert shapes(one["average"]) == shapes(sharded["average"])


def shapes(state):
    """Return the same structure with shapes instead of tensors, and None instead of other values."""
    if isinstance(state, dict):
        return {key: shapes(value) for key, value in state.items()}
    return tuple(state.shape) if isinstance(state, torch.Tensor) else None


def test_a_weight_that_is_no_number_in_one_process_stops_both(folder):
    told = (folder / "stderr").read_text()
    assert told.count("TrainingError: head.bias has NaN or infinite values after step 3") == 2
    assert not (folder / "spoiled" / "state.pt").exists()
