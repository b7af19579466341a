"""Read and write the files of a run folder.

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
import logging
import math
import platform
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from functools import wraps
from importlib.metadata import version
from pathlib import Path
from typing import Any, Concatenate, ParamSpec

import torch
from torch import Tensor

from videoswin._distributed import from_all_ranks, rank_and_world_size
from videoswin._errors import InputError, TrainingError, require
from videoswin._files import lock, naming, replacing, write_text
from videoswin._text import dump_json, first_few
from videoswin.data.manifest import Manifest, write_manifest
from videoswin.evaluation import plots
from videoswin.evaluation.report import Report
from videoswin.training.state import (
    RunProgress,
    Stateful,
    differing_keys,
    load_state,
    run_identity,
    save_state,
)
from videoswin.weights.checkpoint import Checkpoint

_log = logging.getLogger(__name__)

LIBRARIES = ("videoswin", "torch", "lightning", "av", "numpy", "safetensors")
"""Packages whose versions are in environment.json."""
P = ParamSpec("P")


def _in_first_process(
    write: Callable[Concatenate[RunFolder, P], None],
) -> Callable[Concatenate[RunFolder, P], None]:
    """Return a method that does nothing in every process but the first."""

    @wraps(write)
    def method(self: RunFolder, /, *args: P.args, **options: P.kwargs) -> None:
        if self.is_writer:
            write(self, *args, **options)

    return method


class RunFolder:
    """The folder of one run, which all processes can read; only the first process writes."""

    def __init__(self, path: Path) -> None:
        """Create the folder if it does not exist."""
        path.mkdir(parents=True, exist_ok=True)
        self.path = path
        self.is_writer = rank_and_world_size()[0] == 0
        self._tensorboard: Any = None
        self._saved_step: int | None = None

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Lock the folder against other runs inside the context. Every process of the run must call it.

        At the end the files of TensorBoard are closed.

        Raises:
            TrainingError: Another run is writing into the folder.
        """
        with lock(self.path / ".lock") if self.is_writer else nullcontext(True) as is_locked:
            if not all(from_all_ranks(is_locked)):
                raise TrainingError(
                    f"another training run is writing into {self.path}: wait until it ends, or choose "
                    "another folder with --out"
                )
            try:
                yield
            finally:
                if self._tensorboard is not None:
                    with suppress(OSError):  # every row was already flushed, or raised its error
                        self._tensorboard.close()

    def is_finished(self, identity: Mapping[str, Any]) -> bool:
        """Return whether the folder has the finished run with this identity, from `run_identity`.

        Raises:
            InputError: The folder has another finished run.
            TrainingError: The run is finished, but its checkpoint is missing.
        """
        finished = next((row for row in self._read_rows("metrics.jsonl") if "finished" in row), None)
        if finished is None:
            return False
        origin = {key: value for key, value in finished.items() if key in ("data", "init_from")}
        if keys := differing_keys(identity, run_identity(self.settings, origin)):
            raise InputError(
                f"{self.path} has a finished run with another {first_few(keys)}; choose another folder "
                "with --out"
            )
        if not self.result.exists():
            raise TrainingError(
                f"the run in {self.path} is finished, but its {self.result.name} is missing: restore the "
                "file, or choose another folder with --out to train again"
            )
        _log.warning("the run in %s is already finished: nothing is trained", self.path)
        return True

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

    @_in_first_process
    def write_settings(self, recipe: Mapping[str, Any]) -> None:
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
        write_text(self.path / "recipe.json", dump_json(dict(recipe), indent=2) + "\n")
        write_text(self.path / "environment.json", dump_json(environment, indent=2) + "\n")

    @_in_first_process
    def write_video_lists(self, training: Manifest | None, validation: Manifest | None) -> None:
        """Write train.csv and val.csv, so that later evaluations can use the same videos."""
        for name, manifest in (("train.csv", training), ("val.csv", validation)):
            if manifest is not None:
                write_manifest(manifest, self.path / name)

    def resume(self, identity: Mapping[str, Any], parts: Mapping[str, Stateful]) -> RunProgress:
        """Restore the saved state, if there is one, and open the metrics.

        Rows of metrics after the saved step, which will be repeated, and partial files are deleted.

        Args:
            identity: Identifies the run, from `run_identity`.
            parts: The objects whose state is restored, by name.

        Returns:
            Finished steps and epochs; zeros if there is no state.

        Raises:
            InputError: The state is that of another run.
            TrainingError: The file is damaged or from another version.
        """
        progress = load_state(self.state, identity, parts)
        self._saved_step = None if progress is None else progress.step
        progress = progress or RunProgress(step=0, epoch=0)
        self._discard_after(progress)
        return progress

    @_in_first_process
    def _discard_after(self, progress: RunProgress) -> None:
        """Delete partial files and all rows that are written again, and open TensorBoard."""
        for partial in self.path.glob(".*.part"):
            partial.unlink()
        for name in ("metrics.jsonl", "failures.jsonl"):
            rows = [row for row in self._read_rows(name) if row["step"] <= progress.step]
            # After an interruption the validation of the newest epoch is repeated.
            kept = [row for row in rows if "val_score" not in row or row["epoch"] <= progress.epoch]
            write_text(self.path / name, "".join(f"{dump_json(row)}\n" for row in kept))
        tensorboard = require("torch.utils.tensorboard", extra="train")
        self._tensorboard = tensorboard.SummaryWriter(
            str(self.path / "tensorboard"), purge_step=progress.step + 1
        )

    def save_state(
        self, identity: Mapping[str, Any], parts: Mapping[str, Stateful], progress: RunProgress
    ) -> None:
        """Save the state from which the run resumes, as `resume` restores it. Every process must call it.

        Args:
            identity: Identifies the run, so that its state is not loaded into another one.
            parts: The objects whose state is saved, by name.
            progress: Finished steps and epochs.
        """
        save_state(self.state if self.is_writer else None, identity, parts, progress)
        self._saved_step = progress.step

    def describe_resume(self) -> str:
        """Return how to resume after a failure, as the end of a sentence."""
        if self._saved_step is None:
            return "run the same command again; no state was saved yet"
        return (
            f"run the same command again to resume from the state of step {self._saved_step}, which is intact"
        )

    @_in_first_process
    def write_metrics(self, row: dict[str, Any]) -> None:
        """Append a row of metrics, which must have a `step`, to metrics.jsonl and TensorBoard."""
        self._append("metrics.jsonl", row)
        with naming(self.path / "tensorboard"):
            for name, value in row.items():
                if isinstance(value, float):
                    self._tensorboard.add_scalar(name, value, row["step"])
            self._tensorboard.flush()

    @_in_first_process
    def write_validation(self, report: Report, progress: RunProgress) -> None:
        """Append a validation to the metrics, and its unreadable videos to failures.jsonl."""
        low, high = report.score_interval
        scores = {"val_score": report.score, "val_low": low, "val_high": high, "val_loss": report.loss}
        self.write_metrics({**progress._asdict(), **scores, "chance": report.chance})
        self.write_failures(progress.step, {failure.path: failure.reason for failure in report.failures})

    @_in_first_process
    def write_failures(self, step: int, reasons: Mapping[str, str]) -> None:
        """Append the step, path and reason of unreadable videos that are not in failures.jsonl yet."""
        recorded = {row.get("path") for row in self._read_rows("failures.jsonl")} if reasons else set()
        for path, reason in reasons.items():
            if path not in recorded:
                self._append("failures.jsonl", {"step": step, "path": path, "reason": reason})

    @_in_first_process
    def save_checkpoint(self, checkpoint: Checkpoint, *, is_best: bool) -> None:
        """Save the checkpoint as the last one and, if it is, as the best one."""
        if is_best:
            checkpoint.save(self.best)
        checkpoint.save(self.last)

    @_in_first_process
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

    @_in_first_process
    def draw_samples(self, clips: list[tuple[str, Tensor]]) -> None:
        """Draw clips (T, H, W, 3), uint8, with their captions."""
        with replacing(self.path / "samples.png") as unfinished:
            plots.draw_contact_sheet(unfinished, clips)

    @_in_first_process
    def finish(self, step: int, origin: Mapping[str, str]) -> None:
        """Mark the run as finished, with the digests of `run_origin`, and delete its state."""
        self._append("metrics.jsonl", {"step": step, "finished": True, **origin})
        self.state.unlink(missing_ok=True)

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
