"""Program that kills a training run at many moments and prints the results: killed_runs.py FOLDER.

Prints one JSON object, which `test_interruption.py` reads.
"""

import hashlib
import json
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

# Once here, not in every child.
import lightning_fabric  # noqa: F401
import torch
import torch._dynamo
import torch.utils.tensorboard

from tests.training.small_runs import draw_nothing, ended, in_child, stripes, train_in_child
from videoswin.training import loop, run_folder, state
from videoswin.training.run_folder import RunFolder
from videoswin.weights.checkpoint import Checkpoint

RECIPE = stripes(run__save_every=3)


def kill() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def killed(function: Callable[..., Any], call: int, *, before: bool = True) -> Callable[..., Any]:
    """Return the function, which kills the process before or after its `call`-th call."""
    calls = []

    def wrapper(*arguments: Any, **options: Any) -> Any:
        calls.append(None)
        if before and len(calls) == call:
            kill()
        result = function(*arguments, **options)
        if len(calls) == call:
            kill()
        return result

    return wrapper


def cut_off(function: Callable[..., Any], file_of: Callable[..., Path], call: int) -> Callable[..., Any]:
    """Return the function, whose `call`-th call leaves half of its file and kills the process."""
    calls = []

    def wrapper(*arguments: Any, **options: Any) -> None:
        calls.append(None)
        function(*arguments, **options)
        if len(calls) == call:
            file = file_of(*arguments)
            os.truncate(file, file.stat().st_size - 20)
            kill()

    return wrapper


def cut_off_state(call: int) -> Callable[..., Any]:
    save, calls = torch.save, []

    def wrapper(content: object, file: Any) -> None:
        calls.append(None)
        save(content, file)
        if len(calls) == call:
            file.truncate(file.tell() // 2)
            kill()

    return wrapper


MOMENTS: dict[str, Callable[[], None]] = {
    "in the first step": lambda: setattr(loop, "training_step", killed(loop.training_step, 1)),
    "before the first state": lambda: setattr(loop, "training_step", killed(loop.training_step, 3)),
    "while the first state is written": lambda: setattr(state.torch, "save", cut_off_state(1)),
    "after the first state": lambda: setattr(
        RunFolder, "save_state", killed(RunFolder.save_state, 1, before=False)
    ),
    "while metrics are written": lambda: setattr(
        RunFolder,
        "_append",
        cut_off(RunFolder._append, lambda folder, name, row: folder.path / name, 1),
    ),
    "between two states": lambda: setattr(loop, "training_step", killed(loop.training_step, 8)),
    "while a later state is written": lambda: setattr(state.torch, "save", cut_off_state(3)),
    "before the validation": lambda: setattr(loop, "validate", killed(loop.validate, 1)),
    "while a checkpoint is written": lambda: setattr(
        Checkpoint, "save", cut_off(Checkpoint.save, lambda checkpoint, path: path, 1)
    ),
    "after the checkpoint": lambda: setattr(
        RunFolder, "save_checkpoint", killed(RunFolder.save_checkpoint, 1, before=False)
    ),
    "in the second epoch": lambda: setattr(loop, "training_step", killed(loop.training_step, 9)),
    "in the last step": lambda: setattr(loop, "training_step", killed(loop.training_step, 13)),
    "before the end": lambda: setattr(run_folder.RunFolder, "finish", killed(RunFolder.finish, 1)),
}
"""Moment -> changes the program so that the process is killed then. One run is killed at all of them."""


def outcome(folder: Path) -> dict[str, object]:
    """Return all logged losses, a hash of the final weights, and the names of all files."""
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    weights = hashlib.sha256((folder / "last.safetensors").read_bytes()).hexdigest()
    losses = [(row["step"], row["loss"]) for row in rows if "loss" in row]
    return {"losses": losses, "weights": weights, "files": sorted(file.name for file in folder.iterdir())}


def crashed(folder: Path) -> int:
    """Return the exit code of a program that an exception in training ends, with data workers."""

    def crash(*arguments: object) -> None:
        raise NotImplementedError("no such kernel")

    if pid := os.fork():
        return ended(pid)
    loop.training_step = crash  # type: ignore[assignment]
    loop.train(stripes(data__num_workers=2), folder)
    raise AssertionError


def main(folder: Path) -> None:
    """Make all runs, the uninterrupted one first."""
    code = crashed(folder / "crashed")
    assert ended(train_in_child(RECIPE, folder / "whole")) == 0
    for moment, prepare in MOMENTS.items():
        pid = in_child(lambda prepare=prepare: (prepare(), loop.train(RECIPE, folder / "killed")))  # type: ignore[misc]
        assert ended(pid) == -signal.SIGKILL, moment
    assert ended(train_in_child(RECIPE, folder / "killed")) == 0
    results = {name: outcome(folder / name) for name in ("whole", "killed")}
    print(json.dumps({"kills": len(MOMENTS), "crashed": code, **results}))


if __name__ == "__main__":
    draw_nothing(setattr)
    main(Path(sys.argv[1]))
