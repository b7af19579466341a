"""OpenVINO: the fastest way over a CPU. Float32, bfloat16, or int8 by quantization after training."""

from __future__ import annotations

import logging
import sys
import warnings
from collections.abc import Iterable
from contextlib import redirect_stdout
from pathlib import Path
from tempfile import TemporaryDirectory
from types import ModuleType
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from videoswin._errors import InputError
from videoswin._optional import require
from videoswin.acceleration.verify import in_one_line
from videoswin.inference.backends.metadata import KEY, ExportMetadata, ExportPrecision, LoadedFile

if TYPE_CHECKING:
    from torch.export import ExportedProgram


def write(
    program: ExportedProgram, path: Path, metadata: ExportMetadata, calibration: Iterable[Tensor] = ()
) -> None:
    """Write `path` (.xml) and its weights beside it (.bin).

    calibration: clips, uint8 (3, T, S, S), that an int8 model's scales are chosen on.
    """
    openvino = require("openvino", extra="openvino")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about the internals of its tracer
        model = openvino.convert_model(program)
    # What is not rounded to int8 is used in bfloat16, which has fewer digits than float16.
    half = metadata.precision != "fp32"
    if metadata.precision == "int8":
        model = _quantized(_in_half(model, openvino), calibration)
    model.set_rt_info(metadata.to_json(), [KEY])
    openvino.save_model(model, path, compress_to_fp16=half)


def load(path: Path, device: torch.device) -> LoadedFile:
    """The model in OpenVINO on the CPU, with as many threads as torch has; ValueError for what it cannot."""
    if device.type != "cpu":
        raise InputError(f"OpenVINO models run on a CPU here, not on {device}; use --device cpu")
    core, model, metadata = _read(path)
    try:
        # One clip fills the cores that a CPU has for it, and fixed sizes are planned once: view by view.
        model.reshape([1, *model.input().partial_shape[1:]])
        compiled = core.compile_model(model, "CPU", settings(metadata.precision))
    except RuntimeError as error:
        raise InputError(f"{path} is no model that OpenVINO runs: {in_one_line(error)}") from error

    def run(pixels: Tensor) -> Tensor:
        return torch.stack([torch.from_numpy(compiled(view[None].numpy())[0][0].copy()) for view in pixels])

    return LoadedFile(metadata, run)


def run_batch(path: Path, pixels: Tensor) -> Tensor:
    """uint8 (B, 3, T, S, S) -> logits (B, K) of all clips in one call, as other programs may run the file."""
    core, model, metadata = _read(path)
    compiled = core.compile_model(model, "CPU", settings(metadata.precision))
    return torch.from_numpy(compiled(pixels.numpy())[0].copy())


def _read(path: Path) -> tuple[Any, Any, ExportMetadata]:
    """OpenVINO's core, the model for any batch, and what the file says of itself."""
    core = require("openvino", extra="openvino").Core()
    try:
        model = core.read_model(path)
    except RuntimeError as error:
        raise InputError(f"{path} is no model that OpenVINO reads: {in_one_line(error)}") from error
    info = model.get_rt_info([KEY]).astype(str) if model.has_rt_info([KEY]) else None
    return core, model, ExportMetadata.from_json(info, path)


def settings(precision: ExportPrecision) -> dict[str, object]:
    """How OpenVINO shall compute: as the file says, with torch's threads, one clip at a time.

    Unless told, it takes bfloat16 wherever the processor has it, whatever the file holds.
    """
    return {
        "INFERENCE_PRECISION_HINT": "f32" if precision == "fp32" else "bf16",
        "INFERENCE_NUM_THREADS": torch.get_num_threads(),
        "NUM_STREAMS": 1,
    }


def _in_half(model: Any, openvino: ModuleType) -> Any:
    """The model with constants in float16; OpenVINO does that only on the way to a file, and before int8."""
    with TemporaryDirectory() as folder:
        path = Path(folder, "half.xml")
        openvino.save_model(model, path, compress_to_fp16=True)
        return openvino.Core().read_model(path, config={"ENABLE_MMAP": False})


def _quantized(model: Any, calibration: Iterable[Tensor]) -> Any:
    """The model with linear layers and products of queries and keys in int8.

    Attention's weights stay as they are: most are less than a step of int8 from 0 to 1. So do norms, the
    embedding and the head.
    """
    nncf = require("nncf", extra="openvino")
    nncf.set_log_level(logging.ERROR)  # it names every operation that it leaves alone
    clips = [clip[None].numpy() for clip in calibration]
    products = [op.get_friendly_name() for op in model.get_ordered_ops() if op.get_type_name() == "MatMul"]
    with redirect_stdout(sys.stderr):  # where its progress belongs
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
