"""ExportedBackend: the checks that all runtimes of exported files share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Final

import torch
from torch import Tensor

from videoswin._errors import InputError
from videoswin._text import in_one_line
from videoswin.weights.metadata import Metadata

_FAILURES: Final = (RuntimeError, TypeError, ValueError, LookupError, AssertionError)
"""Exceptions of runtimes for a foreign file with another input or computation."""


class ExportedBackend:
    """A model in another runtime; `load_backend` returns it.

    Attributes: path, device, metadata (Metadata).
    """

    def __init__(
        self,
        path: Path,
        device: torch.device,
        metadata: Metadata,
        run: Callable[[Tensor], Tensor],
    ) -> None:
        """Create the backend; `load_backend` does it for a file.

        Args:
            path: The exported file.
            device: Device that runs the model.
            metadata: Metadata of the file.
            run: Computes logits (V, K) of pixels (V, 3, T, S, S) uint8.
        """
        self.path, self.device, self.metadata, self._run = path, device, metadata, run

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
