"""Runtimes that compute logits from pixels: the Backend protocol, and the formats of exported files.

To add a runtime, write one file with two functions, `write` (saves a traced model) and `load` (returns a
function that runs the file), and add one entry to FORMATS: prediction, evaluation and `export --format`
follow. Nothing here imports torch, because the command line needs FORMATS for its help.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal, NamedTuple, Protocol

from videoswin._errors import InputError

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from videoswin.weights.metadata import ExportPrecision, Metadata

Precision = Literal["fp32", "bf16", "fp16"]
"""Precision of a model in PyTorch; in training, bf16 and fp16 are mixed precision."""


class Backend(Protocol):
    """A model in a runtime: pixels to logits, without files. Predictor runs any object with this interface.

    V views, T frames, H W height and width of a view, K classes.
    """

    @property
    def metadata(self) -> Metadata:
        """Name, labels, clip and views of the model."""

    @property
    def device(self) -> torch.device:
        """Device of the model, and of the logits."""

    def __call__(self, pixels: Tensor) -> Tensor:
        """Compute floating-point logits (V, K) of pixels (V, 3, T, H, W), uint8 on any device."""


class Runtime(NamedTuple):
    """The functions of the file of a runtime."""

    write: Callable[..., None]
    """`write(program, path, metadata)` writes the result of `graph.trace`. The writer of a format with int8
    also takes `calibration`, the clips for the scales of the quantization."""
    load: Callable[..., tuple[Metadata, Callable[[Tensor], Tensor]]]
    """`load(path, device, trust=False)` returns the metadata of a file and the function that runs it, uint8
    (V, 3, T, S, S) -> logits (V, K)."""
    run_batch: Callable[[Path, Tensor], Tensor] | None = None
    """`run_batch(path, pixels)` runs several clips in one call, (V, 3, T, S, S) -> (V, K), for the comparison
    after an export. Needed only if the function that `load` returns runs clips one by one."""


@dataclass(frozen=True, kw_only=True)
class Format:
    """A format of exported files."""

    suffix: str
    """Suffix of the file, with its dot."""
    precisions: tuple[ExportPrecision, ...]
    """Precisions in which a file can be written."""
    runtime: Callable[[], Runtime]
    """Imports the runtime's file."""
    libraries: tuple[tuple[str, str], ...] = ()
    """Libraries for writing and running a file, each with the extra of this package that has it."""
    casts_pixels_first: bool = False
    """Whether the graph starts with a cast of its pixels to float32."""
    sets_precision_on_loading: bool = False
    """Whether the precision is a setting of the runtime, so that the graph of every precision is float32."""


def _onnx() -> Runtime:
    from videoswin.inference.backends import onnx

    return Runtime(onnx.write, onnx.load)


def _openvino() -> Runtime:
    from videoswin.inference.backends import openvino

    return Runtime(openvino.write, openvino.load, openvino.run_batch)


def _torch_export() -> Runtime:
    from videoswin.inference.backends import torch_export

    return Runtime(torch_export.write, torch_export.load)


def _aotinductor() -> Runtime:
    from videoswin.inference.backends import torch_export

    return Runtime(torch_export.write_compiled, torch_export.load)


FORMATS: Final[dict[str, Format]] = {
    "onnx": Format(
        suffix=".onnx",
        precisions=("fp32",),
        runtime=_onnx,
        libraries=(("onnxscript", "export"), ("onnx", "export"), ("onnxruntime", "export")),
        casts_pixels_first=True,
    ),
    "openvino": Format(
        suffix=".xml",
        precisions=("fp32", "bf16", "int8"),
        runtime=_openvino,
        libraries=(("openvino", "openvino"),),
        sets_precision_on_loading=True,
    ),
    "torch": Format(suffix=".pt2", precisions=("fp32", "bf16"), runtime=_torch_export),
    "aotinductor": Format(suffix=".pt2", precisions=("fp32", "bf16"), runtime=_aotinductor),
}
"""Formats by name. The first format of a suffix is its default, and loads all files with this suffix."""
SUFFIXES: Final = tuple(dict.fromkeys(format.suffix for format in FORMATS.values()))
"""Suffixes of exported files."""


def is_exported(path: str | os.PathLike[str]) -> bool:
    """Return whether `path` is an existing file with the suffix of an exported model."""
    return Path(path).suffix in SUFFIXES and os.path.isfile(path)


def load_backend(path: str | os.PathLike[str], device: torch.device, *, trust: bool = False) -> Backend:
    """Load a file written by `videoswin export` in the runtime of its suffix.

    Args:
        path: A file with one of SUFFIXES.
        device: Device to run on.
        trust: Also load a .pt2 file that can run code; the other formats contain no code.

    Raises:
        MissingPackageError: The runtime is not installed.
        InputError: The file is foreign, damaged or not trusted, or its runtime cannot use `device`.
    """
    from videoswin.inference.backends.exported import ExportedBackend

    path = Path(path)
    format = next((format for format in FORMATS.values() if format.suffix == path.suffix), None)
    if format is None:
        raise InputError(f"an exported model must end in {', '.join(SUFFIXES)}, got {path}")
    metadata, run = format.runtime().load(path, device, trust=trust)
    return ExportedBackend(path, device, metadata, run)
