"""ExportedModel: a file for another runtime that answers as a checkpoint's model does."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Final

import torch
from torch import Tensor

from videoswin._errors import InputError
from videoswin.acceleration.verify import in_one_line
from videoswin.inference.backends import onnx, openvino, torch_export
from videoswin.inference.backends.metadata import ExportMetadata, LoadedFile

LOADERS: Final[dict[str, Callable[..., LoadedFile]]] = {
    ".onnx": onnx.load,
    ".xml": openvino.load,
    ".pt2": torch_export.load,
}
"""How a file is run, by the end of its name."""
MAY_HOLD_CODE: Final = {".pt2"}
"""Formats that can hold code, which is not loaded unless the caller trusts it."""
_FAILURES: Final = (RuntimeError, TypeError, ValueError, LookupError, AssertionError)
"""What runtimes say of a file from elsewhere that expects or computes something else."""


def is_exported(path: str | os.PathLike[str]) -> bool:
    """Whether `path` is a file whose name says that it is for another runtime."""
    return Path(path).suffix in LOADERS and os.path.isfile(path)


class ExportedModel:
    """A model in another runtime. Call it with pixels; `metadata` is what a predictor needs to know."""

    def __init__(self, path: str | os.PathLike[str], *, device: torch.device, trust: bool = False) -> None:
        """Load the file at `path`, as `videoswin export` wrote it, to run on `device`.

        Args:
            path: A file whose name ends as one of LOADERS.
            device: Where it is to run.
            trust: Load also a .pt2 file that can run code; the other formats hold none.

        Raises:
            MissingPackageError: Its runtime is not installed.
            InputError: The file is from elsewhere, broken or not trusted, or its runtime cannot use `device`.
        """
        path = Path(path)
        if path.suffix not in LOADERS:
            raise InputError(f"{path} is no exported model, whose names end in {', '.join(LOADERS)}")
        self.path = path
        self.device = device
        self.metadata: ExportMetadata
        self.metadata, self._run = LOADERS[path.suffix](
            path, device, **({"trust": trust} if path.suffix in MAY_HOLD_CODE else {})
        )

    def __call__(self, pixels: Tensor) -> Tensor:
        """uint8 (V, 3, T, S, S) -> logits (V, K); InputError for clips of a size it was not made for."""
        clip = self.metadata.clip
        wanted = (3, clip.frames, clip.size, clip.size)
        if pixels.dtype != torch.uint8 or pixels.shape[1:] != wanted:
            raise InputError(
                f"{self.path} is for uint8 clips of {wanted}, got {pixels.dtype} {tuple(pixels.shape[1:])}; "
                "use a protocol of square crops, or a checkpoint, which takes any size"
            )
        try:
            logits = self._run(pixels)
        except (torch.AcceleratorError, torch.OutOfMemoryError):
            raise  # RuntimeErrors, too, but not the file's fault
        except _FAILURES as error:
            raise InputError(f"{self.path} cannot be run: {in_one_line(error)}") from error
        expected = (len(pixels), len(self.metadata.labels))
        if tuple(logits.shape) != expected or not logits.is_floating_point():
            raise InputError(
                f"{self.path} must give floating-point logits of shape {expected}, one for each label, got "
                f"{logits.dtype} {tuple(logits.shape)}; export the model again"
            )
        return logits
