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

# Once here, not in every child.
import lightning_fabric  # noqa: F401
import torch
import torch._dynamo
import torch.utils.tensorboard
from torch import Tensor

from tests.training.small_runs import draw_nothing, ended, in_child, stripes, train_in_child
from videoswin.data.dataset import Batch
from videoswin.model.config import VideoSwinConfig
from videoswin.training import loop
from videoswin.training.learner import Learner
from videoswin.training.loop import train
from videoswin.training.recipe import Recipe
from videoswin.training.state import local_tensor

STOP = 13

# Drop path and dropout differ between processes; without them the runs are comparable.
STILL: dict[str, Any] = {
    "model__config": VideoSwinConfig(embed_dim=8, depths=(1,), num_heads=(1,), window=(1, 2, 2)),
    "model__drop_path": 0.0,
    "model__dropout": 0.0,
    "schedule__epochs": 1,
}
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


def stop(recipe: Recipe, folder: Path) -> None:
    """Train until SIGTERM after STOP steps, which saves the state."""
    training_step = loop.training_step

    def asked_in_time(learner: Learner, batch: Batch, step: int) -> Tensor:
        if step + 1 == STOP:
            os.kill(os.getpid(), signal.SIGTERM)
        return training_step(learner, batch, step)

    loop.training_step = asked_in_time
    assert train(recipe, folder) is None
    loop.training_step = training_step


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


def in_one_process(folder: Path) -> None:
    """Make the runs of one process."""
    train(stripes(**STILL), folder / "one")
    train(stripes(**STILL, run__grad_accum_steps=4), folder / "micro-batches")
    train(stripes(**STILL, **LORA), folder / "lora")
    stop(stripes(**STILL), folder / "stopped-one")


def in_two_processes(folder: Path) -> None:
    """Make the runs of two processes; the last one fails."""
    train(stripes(**COPIED), folder / "two")
    train(stripes(**COPIED, run__grad_accum_steps=2), folder / "two-micro-batches")
    train(stripes(**SHARDED), folder / "sharded")
    thrifty = {"run__grad_accum_steps": 2, "model__grad_checkpointing": True}
    train(stripes(**SHARDED, **LORA, **thrifty), folder / "sharded-lora")
    train(stripes(**SHARDED), folder / "one-then-sharded")
    stop(stripes(**SHARDED), folder / "stopped-sharded")
    if os.environ["RANK"] == "0":
        for name in ("sharded-then-sharded", "sharded-then-one"):
            shutil.copytree(folder / "stopped-sharded", folder / name)
    torch.distributed.barrier()
    train(stripes(**SHARDED), folder / "sharded-then-sharded")
    spoil(stripes(**SHARDED, run__save_every=3), folder / "spoiled")


def main(folder: Path) -> None:
    """Make all runs that the module docstring lists, in as few processes as possible."""
    assert ended(in_child(lambda: in_one_process(folder))) == 0
    shutil.copytree(folder / "stopped-one", folder / "one-then-sharded")
    assert together(lambda: in_two_processes(folder)) == [1, 1]
    assert (folder / "spoiled").exists(), "another run failed"
    assert ended(train_in_child(stripes(**STILL), folder / "sharded-then-one")) == 0


if __name__ == "__main__":
    draw_nothing(setattr)
    main(Path(sys.argv[1]))
