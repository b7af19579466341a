"""Everything that a run needs to go on, in one file that is always whole."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import torch

from videoswin._errors import InputError
from videoswin._files import replacing


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
    with replacing(path) as unfinished:
        torch.save({"identity": dict(identity), "parts": state}, unfinished)


def differences(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> list[str]:
    """What two runs differ in, by name; nothing if they are the same run."""
    return sorted(key for key in {*ours, *theirs} if ours.get(key) != theirs.get(key))


def load_state(path: Path, identity: Mapping[str, Any], parts: Mapping[str, Part]) -> bool:
    """Give every part its saved state; False if there is none.

    ValueError naming what differs if the state is one of another run: its weights must not mix with ours.
    """
    if not path.exists():
        return False
    state = torch.load(path, map_location="cpu", weights_only=True)
    theirs = state["identity"]
    if differing := differences(identity, theirs):
        changes = "; ".join(
            f"{key}: {theirs.get(key)!r} then, {identity.get(key)!r} now" for key in differing[:3]
        )
        raise InputError(
            f"{path.parent} holds another run ({changes}); choose another folder, or remove its {path.name} "
            "to start anew"
        )
    for name, part in parts.items():
        part.load_state_dict(state["parts"][name])
    return True
