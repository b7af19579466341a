"""Program that kills a training run at twenty random times and while it writes, and prints the results.

killed_runs.py FOLDER: prints one JSON object; `test_interruption.py` reads it.
"""

import hashlib
import json
import os
import random
import signal
import sys
import time
from pathlib import Path
from typing import BinaryIO

import lightning_fabric  # noqa: F401 - once here, not in every child
import torch
import torch.utils.tensorboard

import videoswin.training.state
from tests.training.small_runs import draw_nothing, ended, in_child, kill_after, stripes, train_in_child
from videoswin.training.loop import train

KILLS = 20


def outcome(folder: Path) -> dict[str, object]:
    """Return all logged losses, a hash of the final weights, and the names of all files."""
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    weights = hashlib.sha256((folder / "last.safetensors").read_bytes()).hexdigest()
    losses = [(row["step"], row["loss"]) for row in rows if "loss" in row]
    return {"losses": losses, "weights": weights, "files": sorted(file.name for file in folder.iterdir())}


def killed_at_random_moments(folder: Path, duration: float, moments: random.Random) -> int:
    """Kill and resume a run until it is complete; return the number of kills."""
    kills = 0
    # Kill later each time, so that on a busy machine a child still saves a state.
    while kill_after(train_in_child(stripes(), folder), moments.uniform(0.2, 1 + kills / 5) * duration):
        kills += 1
    return kills


def killed_while_writing(folder: Path, write: int) -> None:
    """Kill a run when half of its `write`-th state is written, then resume it to the end."""
    save, calls = torch.save, []

    def half_saved(state: object, file: BinaryIO) -> None:
        save(state, file)
        calls.append(file)
        if len(calls) == write:
            file.truncate(file.tell() // 2)
            os.kill(os.getpid(), signal.SIGKILL)

    def work() -> None:
        videoswin.training.state.torch.save = half_saved  # type: ignore[attr-defined]
        train(stripes(), folder)

    assert ended(in_child(work)) == -signal.SIGKILL
    assert ended(train_in_child(stripes(), folder)) == 0


def main(folder: Path) -> None:
    """Make all runs, the uninterrupted one first."""
    moments = random.Random()
    since = time.monotonic()
    assert ended(train_in_child(stripes(), folder / "whole")) == 0
    duration = time.monotonic() - since
    results, kills = {"whole": outcome(folder / "whole")}, 0
    while kills < KILLS:
        run = folder / f"killed-{len(results)}"  # a run that ended before the kill does not count
        kills += killed_at_random_moments(run, duration, moments)
        results[run.name] = outcome(run)
    for write in (1, 4):
        run = folder / f"writing-{write}"
        killed_while_writing(run, write)
        results[run.name] = outcome(run)
    print(json.dumps({"kills": kills, "results": results}))


if __name__ == "__main__":
    draw_nothing(setattr)
    main(Path(sys.argv[1]))
