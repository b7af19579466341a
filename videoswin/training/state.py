"""Save the state of a run atomically, restore it exactly, and shard a model over processes (FSDP2).

With FSDP every process keeps a shard of each parameter, gradient, optimizer state and average; the parameters
of a block are gathered while it runs. Outside of that they are DTensors, so a function that needs all of a
tensor must be called by every process. Saved states are unsharded.
"""

from __future__ import annotations

import hashlib
import pickle
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_state_dict, set_state_dict
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.optim import Optimizer

from videoswin._errors import InputError, TrainingError, require
from videoswin._files import replacing
from videoswin.model.swin import Block, VideoSwin
from videoswin.training.data import DataSource
from videoswin.weights.checkpoint import Checkpoint

if TYPE_CHECKING:
    from lightning_fabric.strategies.model_parallel import ModelParallelStrategy

EXECUTION_SETTINGS = frozenset(
    {"data.num_workers", "run.num_threads", "run.log_every", "run.save_every", "run.device", "run.devices"}
    | {"run.num_nodes", "run.strategy", "run.grad_accum_steps", "run.license", "name"}
    | {"model.init_from", "data.train", "data.val", "data.root"}
)
"""Settings that may change when a run resumes, because they do not affect what is trained.

Paths of data and initial weights are among them, because digests of both are compared instead.
"""


class Stateful(Protocol):
    """An object with a state: a module, an optimizer, a scheduler, metrics."""

    def state_dict(self) -> dict[str, Any]:
        """Return the state as tensors and plain values."""
        ...

    def load_state_dict(self, state_dict: dict[str, Any], /) -> object:
        """Restore the state from `state_dict()`."""
        ...


class RunProgress(NamedTuple):
    """How far a run is."""

    step: int
    """Number of finished steps."""
    epoch: int
    """Number of finished epochs, including their validation."""


def save_state(
    path: Path | None, identity: Mapping[str, Any], parts: Mapping[str, Stateful], progress: RunProgress
) -> None:
    """Save the state of a run atomically. Every process must call it, because parts may be sharded.

    Args:
        path: Where to save it; None in every process but the first.
        identity: Identifies the run, so that its state is not loaded into another one.
        parts: The objects whose state is saved, by name.
        progress: Finished steps and epochs.
    """
    states = {name: part.state_dict() for name, part in parts.items()}
    if path is None:
        return
    # With a Python file object, torch reports the operating system's reason if it cannot write.
    with replacing(path) as unfinished, unfinished.open("wb") as file:
        torch.save({"identity": dict(identity), "progress": progress._asdict(), "parts": states}, file)


def run_identity(settings: Mapping[str, Any], origin: Mapping[str, str]) -> dict[str, Any]:
    """Return what must be equal for two runs to be the same run.

    Args:
        settings: All settings of the recipe; those in `EXECUTION_SETTINGS` are left out.
        origin: Digests of data and initial weights, from `run_origin`.
    """
    return {key: value for key, value in settings.items() if key not in EXECUTION_SETTINGS} | dict(origin)


def run_origin(source: DataSource, initial: Checkpoint | None) -> dict[str, str]:
    """Return the digests of the data of a run and, if it has one, of its initial checkpoint."""
    return {"data": source.digest} | ({} if initial is None else {"init_from": weights_digest(initial)})


def weights_digest(checkpoint: Checkpoint) -> str:
    """Return a SHA-256 digest of the names and values of the weights, independent of the file format.

    Returns:
        `SHA-256` and 16 hexadecimal digits.
    """
    digest = hashlib.sha256()
    for name, weight in sorted(checkpoint.weights.items()):
        digest.update(f"{name} {weight.dtype} {tuple(weight.shape)}".encode())
        digest.update(weight.cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return f"SHA-256 {digest.hexdigest()[:16]}"


def differing_keys(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> list[str]:
    """Return the sorted keys in which two runs differ; empty if they are the same run."""
    return sorted(key for key in {*ours, *theirs} if ours.get(key) != theirs.get(key))


def load_state(path: Path, identity: Mapping[str, Any], parts: Mapping[str, Stateful]) -> RunProgress | None:
    """Restore the state of a run.

    Args:
        path: The file that `save_state` wrote.
        identity: Identifies the run; it must be equal to that in the file.
        parts: The objects whose state is restored, by name.

    Returns:
        Finished steps and epochs; None if there is no such file.

    Raises:
        InputError: The state is that of another run; the message names the differences.
        TrainingError: The file is damaged or from another version.
    """
    if not path.exists():
        return None
    state = _read_state(path)
    saved = state["identity"]
    if keys := differing_keys(identity, saved):
        changes = "; ".join(f"{key}: {saved.get(key)!r} then, {identity.get(key)!r} now" for key in keys[:3])
        raise InputError(
            f"{path.parent} has an unfinished run that differs ({changes}): use the same settings to "
            "resume it, or choose another folder with --out"
        )
    if state["parts"].keys() != parts.keys():
        raise TrainingError(
            f"{path} is from another version of videoswin: resume the run with that version, or choose "
            "another folder with --out"
        )
    for name, part in parts.items():
        part.load_state_dict(state["parts"][name])
    return RunProgress(**state["progress"])


def _read_state(path: Path) -> dict[str, Any]:
    """Read a file that `save_state` wrote; TrainingError if it is anything else."""
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()  # torch does not verify checksums
        state = torch.load(path, map_location="cpu", weights_only=True) if damaged is None else None
    except (
        zipfile.BadZipFile,
        zlib.error,
        EOFError,
        RuntimeError,
        pickle.UnpicklingError,
        NotImplementedError,
    ):
        state = None
    if not isinstance(state, dict) or state.keys() != {"identity", "progress", "parts"}:
        raise TrainingError(
            f"{path} is damaged, so that the run cannot resume from it. The checkpoints in this folder are "
            "not affected: start a new run from one of them with --model and another --out, or remove the "
            "file to train again from the first step"
        )
    return state


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
