"""What a run leaves behind: settings, metrics, curves, checkpoints, and what it could not read.

recipe.json        every setting, fit to be run again
environment.json   versions and machine
metrics.jsonl      a line for every report and every validation
tensorboard/       the same for TensorBoard
curves.png         the same to look at
samples.png        clips of the first batch as the model saw them
training.csv       the videos that are learned from,
validation.csv     and those that are validated on
failures.jsonl     videos that could not be read
best.safetensors   the checkpoint that validated best
last.safetensors   the newest
state.pt           to go on from after an interruption; gone once the run is finished
.lock              locked by the run that writes here
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
from videoswin._errors import InputError
from videoswin._files import lock, naming, replacing
from videoswin._optional import require
from videoswin._text import dump_json
from videoswin.data.manifest import Manifest, write_manifest
from videoswin.evaluation import plots
from videoswin.training.safeguards import TrainingError


class Part(Protocol):
    """Something with a state: a module, an optimizer, a schedule, a moving average, the run's progress."""

    def state_dict(self) -> dict[str, Any]:
        """Its state, as tensors and plain values."""
        ...

    def load_state_dict(self, state_dict: dict[str, Any], /) -> object:
        """Take up that state."""
        ...


def save_state(path: Path | None, identity: Mapping[str, Any], parts: Mapping[str, Part]) -> None:
    """Write the state of every part, whole or not at all; `identity` says which run it is a state of.

    Every process must call it, for a part may be spread over all of them; path: None in all but the first.
    """
    state = {name: part.state_dict() for name, part in parts.items()}
    if path is None:
        return
    # Written through a file of Python's, torch passes on the system's reason if it cannot write.
    with replacing(path) as unfinished, unfinished.open("wb") as file:
        torch.save({"identity": dict(identity), "parts": state}, file)


def differences(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> list[str]:
    """What two runs differ in, by name; nothing if they are the same run."""
    return sorted(key for key in {*ours, *theirs} if ours.get(key) != theirs.get(key))


def load_state(path: Path, identity: Mapping[str, Any], parts: Mapping[str, Part]) -> bool:
    """Give every part its saved state; False if there is none.

    ValueError naming what differs if the state is one of another run: its weights must not mix with ours.
    TrainingError if the file is damaged.
    """
    if not path.exists():
        return False
    state = _read(path)
    theirs = state["identity"]
    if differing := differences(identity, theirs):
        changes = "; ".join(
            f"{key}: {theirs.get(key)!r} then, {identity.get(key)!r} now" for key in differing[:3]
        )
        raise InputError(
            f"{path.parent} holds an unfinished run that differs ({changes}): give the same settings to "
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


def _read(path: Path) -> dict[str, Any]:
    """Return what `save_state` wrote; TrainingError if the file holds anything else."""
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()  # torch compares no checksums
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
            f"{path} is damaged, the run cannot be resumed from it. Checkpoints beside it are whole: start "
            "from one with --model and another --out, or remove the file to train again from the start"
        )
    return state


LIBRARIES = ("videoswin", "torch", "lightning", "av", "numpy", "safetensors")


class RunFolder:
    """The folder of one run, which all its processes can read; only the first one writes."""

    def __init__(self, path: Path) -> None:
        """Create the folder."""
        path.mkdir(parents=True, exist_ok=True)
        self.path = path
        self._board: Any = None

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other runs out of the folder. Every process of the run must call it.

        Raises:
            TrainingError: Another run is writing into the folder.
        """
        rank, _ = rank_and_world_size()
        with lock(self.path / ".lock") if rank == 0 else nullcontext(True) as ours:
            if not all(from_all_ranks(ours)):
                raise TrainingError(
                    f"another training run is writing into {self.path}: wait for its end, or choose another "
                    "folder with --out"
                )
            yield

    @property
    def finished(self) -> dict[str, Any] | None:
        """The last row of the run in it, with what it learned from, if it came to its end."""
        return next((row for row in self._rows("metrics.jsonl") if "finished" in row), None)

    @property
    def settings(self) -> dict[str, Any]:
        """Those that its recipe.json says; none if there is no such file."""
        path = self.path / "recipe.json"
        try:
            written = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
            settings = written.get("settings", written)
            return dict(settings)
        except (ValueError, TypeError, AttributeError, RecursionError) as error:
            raise InputError(
                f"{path} is damaged, so that the run in this folder cannot be compared; its checkpoints are "
                "whole. Choose another folder with --out"
            ) from error

    @property
    def best(self) -> Path:
        """The checkpoint that validated best."""
        return self.path / "best.safetensors"

    @property
    def last(self) -> Path:
        """The newest checkpoint."""
        return self.path / "last.safetensors"

    @property
    def state(self) -> Path:
        """Where the run's state is kept."""
        return self.path / "state.pt"

    def describe(self, recipe: dict[str, Any]) -> None:
        """Write the settings and the environment."""
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

    def list_videos(self, training: Manifest | None, validation: Manifest | None) -> None:
        """Write which videos are learned from and which are validated on, for evaluations to come."""
        for name, manifest in (("training.csv", training), ("validation.csv", validation)):
            if manifest is not None:
                write_manifest(manifest, self.path / name)

    def resume_from(self, step: int) -> None:
        """Forget what was recorded after `step`, which will come again, and what is half written."""
        for abandoned in self.path.glob(".*.part"):
            abandoned.unlink()
        for name in ("metrics.jsonl", "failures.jsonl"):
            kept = [row for row in self._rows(name) if row["step"] <= step]
            with replacing(self.path / name) as unfinished:
                unfinished.write_text("".join(f"{dump_json(row)}\n" for row in kept), encoding="utf-8")
        board = require("torch.utils.tensorboard", extra="train")
        self._board = board.SummaryWriter(str(self.path / "tensorboard"), purge_step=step + 1)

    def record(self, row: dict[str, Any]) -> None:
        """One row of metrics, with its `step`, to the JSON lines and to TensorBoard."""
        self._append("metrics.jsonl", row)
        with naming(self.path / "tensorboard"):
            for name, value in row.items():
                if isinstance(value, float):
                    self._board.add_scalar(name, value, row["step"])
            self._board.flush()

    def record_failures(self, step: int, reasons: Mapping[str, str]) -> None:
        """Videos that could not be read, by path, and the step after which that was known."""
        for path, reason in reasons.items():
            self._append("failures.jsonl", {"step": step, "path": path, "reason": reason})

    def draw_curves(self) -> None:
        """Loss, accuracy and learning rate over the steps so far."""
        rows = self._rows("metrics.jsonl")

        widest = max((row.get("num_steps", 0) for row in rows), default=0)

        def curve(name: str) -> tuple[list[int], list[float]]:
            # The mean of a few steps at the end is noise beside means of many.
            complete = (row for row in rows if row.get("num_steps", widest) == widest)
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
        """Clips as the model sees them, each with its caption: (T, H, W, 3) uint8."""
        with replacing(self.path / "samples.png") as unfinished:
            plots.draw_contact_sheet(unfinished, clips)

    def finish(self, step: int, origin: Mapping[str, str]) -> None:
        """The run, from `origin`, is over: its state is of no more use."""
        self._append("metrics.jsonl", {"step": step, "finished": True, **origin})
        self.state.unlink(missing_ok=True)

    @property
    def result(self) -> Path:
        """The best checkpoint; the last where nothing was validated."""
        scores = [row.get("val_score", math.nan) for row in self._rows("metrics.jsonl")]
        return self.best if any(score > -math.inf for score in scores) else self.last

    def close(self) -> None:
        """Let go of TensorBoard's file."""
        if self._board is not None:
            with suppress(OSError):  # every row was flushed, or its error raised
                self._board.close()

    def _write_json(self, name: str, content: dict[str, Any]) -> None:
        with replacing(self.path / name) as unfinished:
            unfinished.write_text(dump_json(content, indent=2) + "\n", encoding="utf-8")

    def _append(self, name: str, row: dict[str, Any]) -> None:
        path = self.path / name
        with naming(path), path.open("a", encoding="utf-8", errors="backslashreplace") as file:
            file.write(dump_json(row) + "\n")

    def _rows(self, name: str) -> list[dict[str, Any]]:
        """Every whole line; the last may have been cut off by a kill. InputError for a damaged one."""
        path = self.path / name
        lines = path.read_bytes().split(b"\n")[:-1] if path.exists() else []
        rows = []
        for number, line in enumerate(lines, start=1):
            try:
                row = json.loads(line)
            except (ValueError, RecursionError):
                row = None
            if not (isinstance(row, dict) and isinstance(row.get("step"), int) and _holds_numbers(row)):
                raise InputError(
                    f"line {number} of {path} is damaged: remove that line. Checkpoints and state do not "
                    "depend on it"
                )
            rows.append(row)
        return rows


def _holds_numbers(row: Mapping[str, Any]) -> bool:
    """Whether what is drawn or compared of a row, where it is there, are numbers."""
    names = ("loss", "accuracy", "lr", "val_score", "val_loss")
    numbers = (row.get(name, 0) for name in names)
    return all(isinstance(number, (int, float)) for number in numbers)
