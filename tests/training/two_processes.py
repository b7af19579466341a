"""Program that makes the same runs in one process and in two, over gloo: two_processes.py FOLDER.

one, micro-batches              one process
two, two-micro-batches          two processes with a copy of the model each (DDP)
sharded                         two processes with a shard of the model each (FSDP)
lora, sharded-lora              low-rank updates, the second with micro-batches and gradient checkpointing
stopped-one, stopped-sharded    runs that SIGTERM stopped after STOP steps
A-then-B                        resumes stopped-A as B
"""

import os
import shutil
import signal
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning_fabric  # noqa: F401  # once, and not in every child
from torch import Tensor

from tests.training.small_runs import draw_nothing, ended, in_child, stripes, train_in_child
from videoswin.data.dataset import Batch
from videoswin.training import loop
from videoswin.training.learner import Learner
from videoswin.training.loop import train
from videoswin.training.recipe import Recipe
from videoswin.training.state import local_tensor

STOP = 13

# Drop path and dropout differ between processes; without them the runs are comparable.
STILL: dict[str, Any] = {"model__drop_path": 0.0, "model__dropout": 0.0, "schedule__epochs": 1}
COPIED = STILL | {"run__devices": 2, "run__strategy": "ddp"}
SHARDED = STILL | {"run__devices": 2, "run__strategy": "fsdp"}
LORA: dict[str, Any] = {"model__trainable": "lora", "model__lora_rank": 3}


def together(work: Callable[[], object]) -> list[int]:
    """Run `work` in two processes, as torchrun starts them, and return their exit codes."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    pids = []
    for rank in "01":
        environment = {"RANK": rank, "LOCAL_RANK": rank, "GROUP_RANK": "0", "WORLD_SIZE": "2"}
        environment |= {"LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
        environment |= {"TORCHELASTIC_RUN_ID": "test", "GLOO_SOCKET_IFNAME": "lo"}
        pids.append(in_child(work, environment))
    return [ended(pid) for pid in pids]


def train_together(recipe: Recipe, folder: Path) -> None:
    """Train in two processes."""
    assert together(lambda: train(recipe, folder)) == [0, 0]


def stop(recipe: Recipe, folder: Path) -> None:
    """Train until SIGTERM after STOP steps, which saves the state."""
    training_step = loop.training_step

    def asked_in_time(learner: Learner, batch: Batch, step: int) -> Tensor:
        if step + 1 == STOP:
            os.kill(os.getpid(), signal.SIGTERM)
        return training_step(learner, batch, step)

    loop.training_step = asked_in_time
    assert train(recipe, folder) is None


def spoil(recipe: Recipe, folder: Path) -> None:
    """Train, and set the shard of a weight in the second process to NaN before a state is saved."""
    training_step = loop.training_step

    def spoiled(learner: Learner, batch: Batch, step: int) -> Tensor:
        metrics = training_step(learner, batch, step)
        bias = learner.raw_model.head.bias.detach()
        assert local_tensor(bias).numel() == len(bias) / 2, "the model is not sharded"
        if step + 1 == recipe.run.save_every and learner.fabric.global_rank == 1:
            local_tensor(bias).fill_(float("nan"))
        return metrics

    loop.training_step = spoiled
    train(recipe, folder)


def resumed(folder: Path, by: str) -> Path:
    """Copy the folder of a stopped run, so that another run can resume from it."""
    copy = folder.with_name(f"{folder.name.removeprefix('stopped-')}-then-{by}")
    shutil.copytree(folder, copy)
    return copy


def main(folder: Path) -> None:
    """Make all runs that the module docstring lists."""
    one, sharded = stripes(**STILL), stripes(**SHARDED)
    assert ended(train_in_child(one, folder / "one")) == 0
    assert ended(train_in_child(stripes(**STILL, run__grad_accum_steps=4), folder / "micro-batches")) == 0
    train_together(stripes(**COPIED), folder / "two")
    train_together(stripes(**COPIED, run__grad_accum_steps=2), folder / "two-micro-batches")
    train_together(sharded, folder / "sharded")

    assert ended(train_in_child(stripes(**STILL, **LORA), folder / "lora")) == 0
    thrifty = {"run__grad_accum_steps": 2, "model__grad_checkpointing": True}
    train_together(stripes(**SHARDED, **LORA, **thrifty), folder / "sharded-lora")

    assert ended(in_child(lambda: stop(one, folder / "stopped-one"))) == 0
    train_together(sharded, resumed(folder / "stopped-one", by="sharded"))
    assert together(lambda: stop(sharded, folder / "stopped-sharded")) == [0, 0]
    assert ended(train_in_child(one, resumed(folder / "stopped-sharded", by="one"))) == 0
    train_together(sharded, resumed(folder / "stopped-sharded", by="sharded"))

    assert together(lambda: spoil(sharded, folder / "spoiled")) == [1, 1]


if __name__ == "__main__":
    draw_nothing(setattr)
    main(Path(sys.argv[1]))
