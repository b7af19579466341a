"""ExportedModel: an exported file that a Predictor runs like the model of a checkpoint."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Final

import torch
from torch import Tensor

from videoswin._errors import InputError
from videoswin._text import in_one_line
from videoswin.inference.backends import onnx, openvino, torch_export
from videoswin.weights.metadata import Metadata

LOADERS: Final[dict[str, Callable[..., tuple[Metadata, Callable[[Tensor], Tensor]]]]] = {
    ".onnx": onnx.load,
    ".xml": openvino.load,
    ".pt2": torch_export.load,
}
"""File suffix -> loader of its runtime."""
MAY_CONTAIN_CODE: Final = {".pt2"}
"""Suffixes of formats that can contain code; such files are loaded only if they are harmless or trusted."""
_FAILURES: Final = (RuntimeError, TypeError, ValueError, LookupError, AssertionError)
"""Exceptions of runtimes for a foreign file with another input or computation."""


def is_exported(path: str | os.PathLike[str]) -> bool:
    """Return whether `path` is an existing file with the suffix of an exported model."""
    return Path(path).suffix in LOADERS and os.path.isfile(path)


class ExportedModel:
    """A model in another runtime.

    Attributes: path, device, metadata (Metadata).
    """

    def __init__(self, path: str | os.PathLike[str], *, device: torch.device, trust: bool = False) -> None:
        """Load a file written by `videoswin export`.

        Args:
            path: A file with one of the suffixes of LOADERS.
            device: Device to run on.
            trust: Also load a .pt2 file that can run code; the other formats contain no code.

        Raises:
            MissingPackageError: The runtime is not installed.
            InputError: The file is foreign, damaged or not trusted, or its runtime cannot use `device`.
        """
        path = Path(path)
        if path.suffix not in LOADERS:
            raise InputError(f"an exported model must end in {', '.join(LOADERS)}, got {path}")
        self.path = path
        self.device = device
        self.metadata: Metadata
        self.metadata, self._run = LOADERS[path.suffix](
            path, device, **({"trust": trust} if path.suffix in MAY_CONTAIN_CODE else {})
        )

    def __call__(self, pixels: Tensor) -> Tensor:
        """Compute logits (V, K) of pixels (V, 3, T, S, S) uint8, for T and S of `metadata.clip`.

        Raises:
            InputError: The pixels have another shape or type, or the file is invalid.
        """
        clip = self.metadata.clip
        expected_clip = (3, clip.frames, clip.size, clip.size)
        if pixels.dtype != torch.uint8 or pixels.shape[1:] != expected_clip:
            raise InputError(
                f"clips for {self.path} must be uint8 {expected_clip}, got {pixels.dtype} "
                f"{tuple(pixels.shape[1:])}; use a protocol with square crops, or a checkpoint, which "
                "supports any size"
            )
        try:
            logits = self._run(pixels)
        except (torch.AcceleratorError, torch.OutOfMemoryError):
            raise  # these RuntimeErrors are not caused by the file
        except _FAILURES as error:
            raise InputError(f"{self.path} cannot be run: {in_one_line(error)}") from error
        expected = (len(pixels), len(self.metadata.labels))
        if tuple(logits.shape) != expected or not logits.is_floating_point():
            raise InputError(
                f"logits of {self.path} must be floating point {expected}, one for each label, got "
                f"{logits.dtype} {tuple(logits.shape)}; export the model again"
            )
        return logits
