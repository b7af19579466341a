"""OpenVINO files, the fastest on CPUs: float32, bfloat16, or int8 by post-training quantization."""

from __future__ import annotations

import logging
import sys
import warnings
from collections.abc import Callable, Iterable
from contextlib import redirect_stdout
from pathlib import Path
from tempfile import TemporaryDirectory
from types import ModuleType
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from videoswin._errors import InputError, require
from videoswin._text import in_one_line
from videoswin.weights.metadata import KEY, Metadata, ModelPrecision

if TYPE_CHECKING:
    from torch.export import ExportedProgram


def write(
    program: ExportedProgram, path: Path, metadata: Metadata, calibration: Iterable[Tensor] = ()
) -> None:
    """Write an OpenVINO model.

    Args:
        program: Result of `graph.trace`.
        path: File to write (.xml); the weights are written next to it (.bin).
        metadata: Metadata to store in the file.
        calibration: Clips, uint8 (3, T, S, S), for the quantization scales of an int8 model.
    """
    openvino = require("openvino", extra="openvino")
    root = logging.getLogger()
    level, filters, handlers = root.level, root.filters[:], root.handlers[:]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about internals of its tracer
            model = openvino.convert_model(program)
    finally:
        # It sets up the root logger for itself, which would hide all warnings of this program from then on.
        root.setLevel(level)
        root.filters[:], root.handlers[:] = filters, handlers
    # Constants that are not int8 are used in bfloat16, which is less precise than float16.
    half = metadata.precision != "fp32"
    if metadata.precision == "int8":
        model = _quantize(_to_float16(model, openvino), calibration)
    model.set_rt_info(metadata.to_json(), [KEY])
    openvino.save_model(model, path, compress_to_fp16=half)


def load(
    path: Path, device: torch.device, *, trust: bool = False
) -> tuple[Metadata, Callable[[Tensor], Tensor]]:
    """Load a model in OpenVINO on the CPU, with as many threads as torch.

    `trust` has no effect, because OpenVINO files contain no code.

    Args:
        path: An .xml file.
        device: Device to run on; it must be the CPU.
        trust: Ignored.

    Returns:
        Metadata of the file, and the function that runs it: uint8 (V, 3, T, S, S) -> logits (V, K).

    Raises:
        InputError: `device` is not the CPU, or the file is not a valid exported model.
    """
    if device.type != "cpu":
        raise InputError(f"device must be cpu for OpenVINO models, got {device}; use --device cpu")
    core, model, metadata = _read(path)
    try:
        # One view at a time: it fills the cores, and a fixed batch size is planned only once.
        model.reshape([1, *model.input().partial_shape[1:]])
        compiled = core.compile_model(model, "CPU", settings(metadata.precision))
    except RuntimeError as error:
        raise InputError(f"OpenVINO cannot run {path}: {in_one_line(error)}") from error

    def run(pixels: Tensor) -> Tensor:
        return torch.stack([torch.from_numpy(compiled(view[None].numpy())[0][0].copy()) for view in pixels])

    return metadata, run


def run_batch(path: Path, pixels: Tensor) -> Tensor:
    """Compute logits (B, K) of uint8 (B, 3, T, S, S) in one call, as other programs may run the file."""
    core, model, metadata = _read(path)
    compiled = core.compile_model(model, "CPU", settings(metadata.precision))
    return torch.from_numpy(compiled(pixels.numpy())[0].copy())


def _read(path: Path) -> tuple[Any, Any, Metadata]:
    """Return OpenVINO's core, the model with a dynamic batch, and the metadata."""
    core = require("openvino", extra="openvino").Core()
    try:
        model = core.read_model(path)
    except RuntimeError as error:
        raise InputError(f"OpenVINO cannot read {path}: {in_one_line(error)}") from error
    info = model.get_rt_info([KEY]).astype(str) if model.has_rt_info([KEY]) else None
    return core, model, Metadata.of_exported_file(info, path)


def settings(precision: ModelPrecision) -> dict[str, object]:
    """Return OpenVINO's settings: the precision of the file, torch's threads, one stream.

    By default OpenVINO uses bfloat16 if the CPU supports it, regardless of the precision of the file.
    """
    return {
        "INFERENCE_PRECISION_HINT": "f32" if precision == "fp32" else "bf16",
        "INFERENCE_NUM_THREADS": torch.get_num_threads(),
        "NUM_STREAMS": 1,
    }


def _to_float16(model: Any, openvino: ModuleType) -> Any:
    """Convert constants to float16 before quantization; OpenVINO does so only when it saves a file."""
    with TemporaryDirectory() as folder:
        path = Path(folder, "float16.xml")
        openvino.save_model(model, path, compress_to_fp16=True)
        return openvino.Core().read_model(path, config={"ENABLE_MMAP": False})


def _quantize(model: Any, calibration: Iterable[Tensor]) -> Any:
    """Quantize linear layers and products of queries and keys to int8.

    Attention weights are not quantized, because most are smaller than one step of int8 from 0 to 1. Norms,
    the patch embedding and the head are not quantized either.
    """
    nncf = require("nncf", extra="openvino")
    nncf.set_log_level(logging.ERROR)  # otherwise it logs every ignored operation
    clips = [clip[None].numpy() for clip in calibration]
    products = [op.get_friendly_name() for op in model.get_ordered_ops() if op.get_type_name() == "MatMul"]
    with redirect_stdout(sys.stderr):  # its progress bar must not mix with the output
        return nncf.quantize(
            model,
            nncf.Dataset(clips),
            subset_size=len(clips),
            model_type=nncf.ModelType.TRANSFORMER,
            preset=nncf.QuantizationPreset.PERFORMANCE,
            ignored_scope=nncf.IgnoredScope(
                names=[products[0], products[-1]],
                types=["Add", "Subtract", "Multiply", "MVN"],
                validate=False,
            ),
        )
