"""ExportedModel: a file for another runtime that answers as a checkpoint's model does."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Final

import torch
from torch import Tensor

from videoswin._errors import InputError
from videoswin.runtimes import onnx, openvino, torch_programs
from videoswin.runtimes.facts import Facts
from videoswin.runtimes.loaded import Loaded

LOADERS: Final[dict[str, Callable[[Path, torch.device], Loaded]]] = {
    ".onnx": onnx.load,
    ".xml": openvino.load,
    ".pt2": torch_programs.load,
}
"""How a file is run, by the end of its name."""


def is_exported(path: str | os.PathLike[str]) -> bool:
    """Whether `path` is a file whose name says that it is for another runtime."""
    return Path(path).suffix in LOADERS and os.path.isfile(path)


class ExportedModel:
    """A model in another runtime: call it with pixels. `facts` says what a predictor needs to know of it."""

    def __init__(self, path: str | os.PathLike[str], *, device: torch.device) -> None:
        """The file at `path`, as `videoswin export` wrote it, ready to run on `device`.

        ImportError says what to install for its runtime; ValueError for a file from elsewhere, for a broken
        one, and for a device that its runtime cannot use.
        """
        path = Path(path)
        if path.suffix not in LOADERS:
            raise InputError(f"{path} is no exported model, whose names end in {', '.join(LOADERS)}")
        self.path = path
        self.device = device
        self.facts: Facts
        self.facts, self._run = LOADERS[path.suffix](path, device)

    def __call__(self, pixels: Tensor) -> Tensor:
        """uint8 (V, 3, T, S, S) -> logits (V, K); ValueError for clips of a size it was not made for."""
        clip = self.facts.clip
        wanted = (3, clip.frames, clip.size, clip.size)
        if pixels.dtype != torch.uint8 or pixels.shape[1:] != wanted:
            raise InputError(
                f"{self.path} is for uint8 clips of {wanted}, got {pixels.dtype} {tuple(pixels.shape[1:])}; "
                "use a protocol of square crops, or a checkpoint, which takes any size"
            )
        return self._run(pixels)
