"""Everything that a run needs to go on, in one file that is always whole."""

from __future__ import annotations

import pickle
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import torch

from videoswin._errors import InputError
from videoswin._files import replacing
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
            "from one with --from and another --out, or remove the file to train again from the start"
        )
    return state
