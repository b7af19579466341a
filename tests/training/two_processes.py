"""Run as a program: the same run in one process and in two, over gloo; two_processes.py FOLDER."""

import socket
import sys
from pathlib import Path

from tests.training.small_runs import draw_nothing, ended, stripes, train_in_child
from videoswin.training.recipe import Recipe


def together(recipe: Recipe, folder: Path) -> list[int]:
    """Train in two processes, as torchrun would start them; their exit codes."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    pids = []
    for rank in "01":
        environment = {"RANK": rank, "LOCAL_RANK": rank, "GROUP_RANK": "0", "WORLD_SIZE": "2"}
        environment |= {"LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
        environment |= {"TORCHELASTIC_RUN_ID": "test", "GLOO_SOCKET_IFNAME": "lo"}
        pids.append(train_in_child(recipe, folder, environment))
    return [ended(pid) for pid in pids]


def main(folder: Path) -> None:
    """One process with the whole batch, one with micro-batches, two with half a batch each."""
    # Drop path and dropout draw for each process alone: without them the runs can be compared.
    still = {"model__drop_path": 0.0, "model__dropout": 0.0}
    assert ended(train_in_child(stripes(**still), folder / "one")) == 0
    assert ended(train_in_child(stripes(**still, run__micro_batches=4), folder / "micro-batches")) == 0
    assert together(stripes(**still, run__devices=2, run__strategy="ddp"), folder / "two") == [0, 0]
    both = stripes(**still, run__devices=2, run__strategy="ddp", run__micro_batches=2)
    assert together(both, folder / "two-micro-batches") == [0, 0]


if __name__ == "__main__":
    draw_nothing(setattr)
    main(Path(sys.argv[1]))
