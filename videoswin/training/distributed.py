"""Weights spread over processes (torch's FSDP2), and everything in a run's state whole again.

Each process keeps a part of every weight, gradient, moment and average; a block's weights are gathered while
it is at work. Otherwise they are DTensors, and whatever needs all of one must be called by every process.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_state_dict, set_state_dict
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.optim import Optimizer

from videoswin._distributed import from_all_ranks
from videoswin._optional import require
from videoswin.model.swin import Block, VideoSwin

if TYPE_CHECKING:
    from lightning_fabric import Fabric
    from lightning_fabric.strategies.model_parallel import ModelParallelStrategy

Thing = TypeVar("Thing")


def all_reduce_mean(tensor: Tensor, fabric: Fabric) -> Tensor:
    """The mean of all processes' tensors of one shape."""
    mean = fabric.all_reduce(tensor, reduce_op="mean")
    assert isinstance(mean, Tensor)  # collections are reduced, too, element by element
    return mean


def any_rank(mine: bool, fabric: Fabric) -> bool:
    """True everywhere if it is true in one of them."""
    if fabric.world_size == 1:
        return mine
    return bool(all_reduce_mean(torch.tensor(float(mine), device=fabric.device), fabric) > 0)


def gather_objects(things: list[Thing]) -> list[Thing]:
    """The things of all processes, in the order of their ranks."""
    return [thing for theirs in from_all_ranks(things) for thing in theirs]


def sharded_strategy(processes: int) -> ModelParallelStrategy:
    """Fabric's way to run a model that `shard` spreads over so many processes."""
    fabric = require("lightning_fabric", extra="train")
    strategy: ModelParallelStrategy = fabric.strategies.ModelParallelStrategy(
        shard, data_parallel_size=processes, tensor_parallel_size=1
    )
    return strategy


def shard(model: VideoSwin, mesh: DeviceMesh) -> VideoSwin:
    """Spread the weights over the mesh's axis `data_parallel`, in place; optimizer and average come after."""
    processes = mesh["data_parallel"]
    for module in model.modules():
        if isinstance(module, Block):
            fully_shard(module, mesh=processes)
    fully_shard(model, mesh=processes)  # what is outside of the blocks
    return model


def local_tensor(tensor: Tensor) -> Tensor:
    """What this process has of the tensor: all of one that is not spread."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def full_tensor(tensor: Tensor) -> Tensor:
    """The tensor itself; one that is spread over processes is gathered into each, on the CPU."""
    return tensor.full_tensor().cpu() if isinstance(tensor, DTensor) else tensor


def distribute_like(pattern: Tensor, tensor: Tensor) -> Tensor:
    """A tensor that is whole in every process, spread as `pattern` is."""
    if not isinstance(pattern, DTensor):
        return tensor
    return distribute_tensor(tensor, pattern.device_mesh, pattern.placements)


@dataclass(frozen=True)
class LearningState:
    """A model and its optimizer as one part of a run's state: by name and whole, however they are spread.

    So a run can go on with more processes or fewer, sharded or not.
    """

    model: nn.Module
    optimizer: Optimizer

    def state_dict(self) -> dict[str, Any]:
        """Weights and moments, on the CPU; in every process but the first, nothing."""
        options = StateDictOptions(full_state_dict=True, cpu_offload=True)
        weights, moments = get_state_dict(self.model, self.optimizer, options=options)
        return {"weights": weights, "moments": moments}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up what the first process's `state_dict` gave; every process hands it all in."""
        set_state_dict(
            self.model,
            self.optimizer,
            model_state_dict=state["weights"],
            optim_state_dict=state["moments"],
            options=StateDictOptions(full_state_dict=True),
        )
