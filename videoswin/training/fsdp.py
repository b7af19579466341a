"""Shard a model over processes (FSDP2), and save its state unsharded.

With FSDP every process keeps a shard of each parameter, gradient, optimizer state and average; the parameters
of a block are gathered while it runs. Outside of that they are DTensors, so a function that needs all of a
tensor must be called by every process.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_state_dict, set_state_dict
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.optim import Optimizer

from videoswin._optional import require
from videoswin.model.swin import Block, VideoSwin

if TYPE_CHECKING:
    from lightning_fabric.strategies.model_parallel import ModelParallelStrategy


def fsdp_strategy(num_processes: int) -> ModelParallelStrategy:
    """Return the strategy with which Fabric runs a model that `shard` distributes over all processes."""
    fabric = require("lightning_fabric", extra="train")
    strategy: ModelParallelStrategy = fabric.strategies.ModelParallelStrategy(
        shard, data_parallel_size=num_processes, tensor_parallel_size=1
    )
    return strategy


def shard(model: VideoSwin, mesh: DeviceMesh) -> VideoSwin:
    """Shard the parameters over the `data_parallel` dimension of the mesh, in place.

    The parameters are replaced, so create the optimizer and the moving average afterwards.
    """
    data_parallel = mesh["data_parallel"]
    for module in model.modules():
        if isinstance(module, Block):
            fully_shard(module, mesh=data_parallel)
    fully_shard(model, mesh=data_parallel)  # the parameters outside of the blocks
    return model


def local_tensor(tensor: Tensor) -> Tensor:
    """Return the shard of this process, or the tensor itself if it is not sharded."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def full_tensor(tensor: Tensor) -> Tensor:
    """Return the tensor unsharded; a DTensor is gathered to the CPU of every process."""
    return tensor.full_tensor().cpu() if isinstance(tensor, DTensor) else tensor


def distribute_like(reference: Tensor, tensor: Tensor) -> Tensor:
    """Shard a tensor, which every process has in full, in the same way as `reference`."""
    if not isinstance(reference, DTensor):
        return tensor
    return distribute_tensor(tensor, reference.device_mesh, reference.placements)


@dataclass(frozen=True)
class LearningState:
    """State of a model and its optimizer, unsharded and by parameter name.

    A run can therefore resume with another number of processes, sharded or not.
    """

    model: nn.Module
    """The model, sharded or not."""
    optimizer: Optimizer
    """Its optimizer."""

    def state_dict(self) -> dict[str, Any]:
        """Return parameters and optimizer state on the CPU; nothing in every process but the first."""
        options = StateDictOptions(full_state_dict=True, cpu_offload=True)
        weights, moments = get_state_dict(self.model, self.optimizer, options=options)
        return {"weights": weights, "moments": moments}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the state; every process must pass all that `state_dict` returned in the first process."""
        set_state_dict(
            self.model,
            self.optimizer,
            model_state_dict=state["weights"],
            optim_state_dict=state["moments"],
            options=StateDictOptions(full_state_dict=True),
        )
