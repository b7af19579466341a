"""Read and write the files of a run folder, and the state from which a run resumes exactly.

recipe.json        all settings; the run can be repeated from this file
environment.json   versions and machine
metrics.jsonl      one row for each log_every steps and for each validation
tensorboard/       the same metrics for TensorBoard
curves.png         the same metrics as curves
samples.png        clips of the first batch after augmentation
train.csv          the training videos
val.csv            the validation videos
failures.jsonl     videos that could not be read
best.safetensors   the checkpoint with the best validation score
last.safetensors   the last checkpoint
state.pt           the state from which an interrupted run resumes; deleted when the run is finished
.lock              locked by the process that writes into the folder
"""

from __future__ import annotations

import json
import math
import pickle
import platform
import sys
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from importlib.metadata import version
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from videoswin._distributed import from_all_ranks, rank_and_world_size
from videoswin._errors import InputError, require
from videoswin._files import lock, naming, replacing
from videoswin._text import dump_json
from videoswin.data.manifest import Manifest, write_manifest
from videoswin.evaluation import plots
from videoswin.training.data import DataSource
from videoswin.training.safeguards import TrainingError

EXECUTION_SETTINGS = frozenset(
    {"data.num_workers", "run.num_threads", "run.log_every", "run.save_every", "run.device", "run.devices"}
    | {"run.num_nodes", "run.strategy", "run.grad_accum_steps", "run.license", "name"}
    | {"model.init_from", "data.train", "data.val", "data.root"}
)
"""Settings that may change when a run resumes, because they do not affect what is trained.

Paths of data and initial weights are among them, because digests of both are compared instead.
"""


class Stateful(Protocol):
    """An object with a state: a module, an optimizer, a scheduler, a moving average, the recorder."""

    def state_dict(self) -> dict[str, Any]:
        """Return the state as tensors and plain values."""
        ...

    def load_state_dict(self, state_dict: dict[str, Any], /) -> object:
        """Restore the state from `state_dict()`."""
        ...


def save_state(path: Path | None, identity: Mapping[str, Any], parts: Mapping[str, Stateful]) -> None:
    """Save the state of a run atomically. Every process must call it, because parts may be sharded.

    Args:
        path: Where to save it; None in every process but the first.
        identity: Identifies the run, so that its state is not loaded into another one.
        parts: The objects whose state is saved, by name.
    """
    state = {name: part.state_dict() for name, part in parts.items()}
    if path is None:
        return
    # With a Python file object, torch reports the operating system's reason if it cannot write.
    with replacing(path) as unfinished, unfinished.open("wb") as file:
        torch.save({"identity": dict(identity), "parts": state}, file)


def run_identity(settings: Mapping[str, Any], origin: Mapping[str, str]) -> dict[str, Any]:
    """Return what must be equal for two runs to be the same run.

    Args:
        settings: All settings of the recipe; those in `EXECUTION_SETTINGS` are left out.
        origin: Digests of data and initial weights, from `run_origin`.
    """
    return {key: value for key, value in settings.items() if key not in EXECUTION_SETTINGS} | dict(origin)


def run_origin(source: DataSource, init_digest: str | None) -> dict[str, str]:
    """Return the digests of the data of a run and, if it has them, of its initial weights."""
    return {"data": source.digest} | ({} if init_digest is None else {"init_from": init_digest})


def differing_keys(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> list[str]:
    """Return the sorted keys in which two runs differ; empty if they are the same run."""
    return sorted(key for key in {*ours, *theirs} if ours.get(key) != theirs.get(key))


def load_state(path: Path, identity: Mapping[str, Any], parts: Mapping[str, Stateful]) -> bool:
    """Restore the state of a run.

    Args:
        path: The file that `save_state` wrote.
        identity: Identifies the run; it must be equal to that in the file.
        parts: The objects whose state is restored, by name.

    Returns:
        False if there is no such file.

    Raises:
        InputError: The state is that of another run; the message names the differences.
        TrainingError: The file is damaged or from another version.
    """
    if not path.exists():
        return False
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
    return True


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
    if not isinstance(state, dict) or state.keys() != {"identity", "parts"}:
        raise TrainingError(
            f"{path} is damaged, so that the run cannot resume from it. The checkpoints in this folder are "
            "not affected: start a new run from one of them with --model and another --out, or remove the "
            "file to train again from the first step"
        )
    return state


LIBRARIES = ("videoswin", "torch", "lightning", "av", "numpy", "safetensors")


class RunFolder:
    """The folder of one run, which all processes can read; only the first process writes."""

    def __init__(self, path: Path) -> None:
        """Create the folder if it does not exist."""
        path.mkdir(parents=True, exist_ok=True)
        self.path = path
        self._tensorboard: Any = None

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Lock the folder against other runs inside the context. Every process of the run must call it.

        Raises:
            TrainingError: Another run is writing into the folder.
        """
        rank, _ = rank_and_world_size()
        with lock(self.path / ".lock") if rank == 0 else nullcontext(True) as is_locked:
            if not all(from_all_ranks(is_locked)):
                raise TrainingError(
                    f"another training run is writing into {self.path}: wait until it ends, or choose "
                    "another folder with --out"
                )
            yield

    @property
    def finished(self) -> dict[str, Any] | None:
        """The final row of metrics, with the digests of data and initial weights; None if unfinished."""
        return next((row for row in self._read_rows("metrics.jsonl") if "finished" in row), None)

    @property
    def settings(self) -> dict[str, Any]:
        """The settings in recipe.json; empty if there is no such file.

        Raises:
            InputError: The file is damaged.
        """
        path = self.path / "recipe.json"
        try:
            recipe = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
            return dict(recipe.get("settings", recipe))
        except (ValueError, TypeError, AttributeError, RecursionError) as error:
            raise InputError(
                f"{path} is damaged, so that the run in this folder cannot be compared with yours; its "
                "checkpoints are not affected. Choose another folder with --out"
            ) from error

    @property
    def best(self) -> Path:
        """Path of the checkpoint with the best validation score."""
        return self.path / "best.safetensors"

    @property
    def last(self) -> Path:
        """Path of the last checkpoint."""
        return self.path / "last.safetensors"

    @property
    def state(self) -> Path:
        """Path of the state from which the run resumes."""
        return self.path / "state.pt"

    @property
    def result(self) -> Path:
        """Path of the best checkpoint, or of the last one if there was no validation."""
        scores = [row.get("val_score", math.nan) for row in self._read_rows("metrics.jsonl")]
        return self.best if any(score > -math.inf for score in scores) else self.last

    def write_settings(self, recipe: dict[str, Any]) -> None:
        """Write recipe.json and environment.json."""
        environment = {
            "command": sys.argv,
            "python": platform.python_version(),
            "platform": platform.platform(),
            "libraries": {name: version(name) for name in LIBRARIES},
            "cuda": torch.version.cuda,
            "gpus": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())],
            "cpu threads": torch.get_num_threads(),
        }
        self._write_json("recipe.json", recipe)
        self._write_json("environment.json", environment)

    def write_video_lists(self, training: Manifest | None, validation: Manifest | None) -> None:
        """Write train.csv and val.csv, so that later evaluations can use the same videos."""
        for name, manifest in (("train.csv", training), ("val.csv", validation)):
            if manifest is not None:
                write_manifest(manifest, self.path / name)

    def resume_from(self, step: int) -> None:
        """Open the metrics, without rows after `step`, which will be repeated, and delete partial files."""
        for partial in self.path.glob(".*.part"):
            partial.unlink()
        for name in ("metrics.jsonl", "failures.jsonl"):
            kept = [row for row in self._read_rows(name) if row["step"] <= step]
            with replacing(self.path / name) as unfinished:
                unfinished.write_text("".join(f"{dump_json(row)}\n" for row in kept), encoding="utf-8")
        tensorboard = require("torch.utils.tensorboard", extra="train")
        self._tensorboard = tensorboard.SummaryWriter(str(self.path / "tensorboard"), purge_step=step + 1)

    def write_metrics(self, row: dict[str, Any]) -> None:
        """Append a row of metrics, which must have a `step`, to metrics.jsonl and TensorBoard."""
        self._append("metrics.jsonl", row)
        with naming(self.path / "tensorboard"):
            for name, value in row.items():
                if isinstance(value, float):
                    self._tensorboard.add_scalar(name, value, row["step"])
            self._tensorboard.flush()

    def write_failures(self, step: int, reasons: Mapping[str, str]) -> None:
        """Append unreadable videos, given as path and reason, and the step at which they were recorded."""
        for path, reason in reasons.items():
            self._append("failures.jsonl", {"step": step, "path": path, "reason": reason})

    def draw_curves(self) -> None:
        """Draw loss, accuracy and learning rate over the steps so far."""
        rows = self._read_rows("metrics.jsonl")

        most_steps = max((row.get("num_steps", 0) for row in rows), default=0)

        def curve(name: str) -> tuple[list[int], list[float]]:
            # The last row may be the mean of fewer steps, which is noisier than the others.
            complete = (row for row in rows if row.get("num_steps", most_steps) == most_steps)
            points = [(row["step"], row[name]) for row in complete if name in row]
            return [step for step, _ in points], [value for _, value in points]

        panels = {
            "loss": {"training": curve("loss"), "validation": curve("val_loss")},
            "accuracy": {"training": curve("accuracy"), "validation": curve("val_score")},
            "learning rate": {"head": curve("lr")},
        }
        panels = {title: {name: c for name, c in p.items() if c[0]} for title, p in panels.items()}
        with replacing(self.path / "curves.png") as unfinished:
            plots.draw_curves(unfinished, panels, fractions=("accuracy",))

    def draw_samples(self, clips: list[tuple[str, Tensor]]) -> None:
        """Draw clips (T, H, W, 3), uint8, with their captions."""
        with replacing(self.path / "samples.png") as unfinished:
            plots.draw_contact_sheet(unfinished, clips)

    def finish(self, step: int, origin: Mapping[str, str]) -> None:
        """Mark the run as finished, with the digests of `run_origin`, and delete its state."""
        self._append("metrics.jsonl", {"step": step, "finished": True, **origin})
        self.state.unlink(missing_ok=True)

    def close(self) -> None:
        """Close the files of TensorBoard."""
        if self._tensorboard is not None:
            with suppress(OSError):  # every row was already flushed, or raised its error
                self._tensorboard.close()

    def _write_json(self, name: str, content: dict[str, Any]) -> None:
        with replacing(self.path / name) as unfinished:
            unfinished.write_text(dump_json(content, indent=2) + "\n", encoding="utf-8")

    def _append(self, name: str, row: dict[str, Any]) -> None:
        path = self.path / name
        with naming(path), path.open("a", encoding="utf-8", errors="backslashreplace") as file:
            file.write(dump_json(row) + "\n")

    def _read_rows(self, name: str) -> list[dict[str, Any]]:
        """Read all complete rows; InputError for a damaged one. The last row is incomplete after a kill."""
        path = self.path / name
        lines = path.read_bytes().split(b"\n")[:-1] if path.exists() else []
        rows = []
        for number, line in enumerate(lines, start=1):
            try:
                row = json.loads(line)
            except (ValueError, RecursionError):
                row = None
            if not (isinstance(row, dict) and isinstance(row.get("step"), int) and _has_valid_metrics(row)):
                raise InputError(
                    f"line {number} of {path} is damaged: remove that line. Checkpoints and state are not "
                    "affected"
                )
            rows.append(row)
        return rows


def _has_valid_metrics(row: Mapping[str, Any]) -> bool:
    """Return whether all metrics of a row that are drawn or compared are numbers."""
    names = ("loss", "accuracy", "lr", "val_score", "val_loss")
    return all(isinstance(row.get(name, 0), (int, float)) for name in names)
