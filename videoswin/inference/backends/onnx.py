"""ONNX: for ONNX Runtime anywhere, and for what else reads it. Static frames and size, any batch."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from videoswin._errors import InputError
from videoswin._optional import require
from videoswin.acceleration.verify import in_one_line
from videoswin.inference.backends.metadata import KEY, ExportMetadata, LoadedFile

if TYPE_CHECKING:
    from torch.export import ExportedProgram

OPSET: Final = 20
"""What TensorRT 10 reads too; attention is written as matrix products and a softmax."""


def write(program: ExportedProgram, path: Path, metadata: ExportMetadata) -> None:
    """Write the program, which casts its input `pixels` first and gives `logits`."""
    require("onnxscript", extra="export")
    onnx = require("onnx", extra="export")
    # torch's fused attention has no translation where the batch is open; its plain form has.
    with sdpa_kernel(SDPBackend.MATH), _quiet():
        written = torch.onnx.export(
            program,
            dynamo=True,
            opset_version=OPSET,
            input_names=["pixels"],
            output_names=["logits"],
            verbose=False,
            optimize=False,  # minutes for nothing: whatever reads the file optimizes it
        )
    assert written is not None
    model = written.model_proto
    _feed_cast_alone(model.graph)
    model.metadata_props.add(key=KEY, value=metadata.to_json())
    onnx.checker.check_model(model)
    onnx.save_model(model, path)


def _feed_cast_alone(graph: Any) -> None:
    """Let what asks for the shape of `pixels` ask their cast: TensorRT takes uint8 for nothing but a cast."""
    casts = [node for node in graph.node if node.op_type == "Cast" and list(node.input) == ["pixels"]]
    assert len(casts) == 1, f"{len(casts)} casts of pixels, wanted the one that the program begins with"
    cast = casts[0]
    graph.node.remove(cast)
    for node in graph.node:
        node.input[:] = [cast.output[0] if name == "pixels" else name for name in node.input]
    graph.node.insert(0, cast)


def load(path: Path, device: torch.device) -> LoadedFile:
    """The model in ONNX Runtime; ValueError if that cannot use `device`, or the file is none."""
    runtime = require("onnxruntime", extra="export")
    _require_self_contained(path)
    provider = f"{device.type.upper()}ExecutionProvider"
    options = runtime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    on_card = {"device_id": device.index or 0} if device.type == "cuda" else {}
    session = None
    if provider in (available := runtime.get_available_providers()):
        session = _session(runtime, path, options, (provider, on_card))
    # It goes on without a provider whose libraries are missing.
    if session is None or provider not in session.get_providers():
        raise InputError(
            f"this ONNX Runtime cannot use {device}, it has {', '.join(available)}; use --device cpu"
        )
    metadata = ExportMetadata.from_json(session.get_modelmeta().custom_metadata_map.get(KEY), path)

    def run(pixels: Tensor) -> Tensor:
        try:
            (logits,) = session.run(["logits"], {"pixels": pixels.cpu().numpy()})
        except _errors(runtime) as error:
            raise RuntimeError(str(error)) from error
        return torch.from_numpy(logits).to(device)

    return LoadedFile(metadata, run)


def _require_self_contained(path: Path) -> None:
    """InputError if tensors are in other files: ONNX Runtime up to 1.23 reads any file that a model names."""
    onnx = require("onnx", extra="export")
    try:
        model = onnx.load(path, load_external_data=False)
    except Exception as error:
        if type(error).__name__ != "DecodeError":  # of protobuf, which is onnx's dependency, not ours
            raise
        return  # ONNX Runtime says what is wrong
    for tensor in _tensors(model):
        if tensor.external_data or tensor.data_location == onnx.TensorProto.EXTERNAL:
            raise InputError(
                f"{path} must hold all of its weights, got {tensor.name!r} in another file; export it again"
            )


def _tensors(message: Any) -> Iterator[Any]:
    """Every tensor in a message of ONNX, in whatever field of whatever subgraph or function."""
    for field, value in message.ListFields():
        if field.message_type is None:
            continue
        for inner in [value] if hasattr(value, "ListFields") else value:
            if field.message_type.name == "TensorProto":
                yield inner
            else:
                yield from _tensors(inner)


def _session(runtime: Any, path: Path, options: Any, provider: tuple[str, dict[str, int]]) -> Any:
    try:
        return runtime.InferenceSession(path, options, providers=[provider])
    except _errors(runtime) as error:
        raise InputError(f"{path} is no model that ONNX Runtime reads: {in_one_line(error)}") from error


def _errors(runtime: Any) -> tuple[type[Exception], ...]:
    """ONNX Runtime's errors, which have no class in common."""
    state = runtime.capi.onnxruntime_pybind11_state
    return (
        state.Fail,
        state.InvalidArgument,
        state.InvalidGraph,
        state.InvalidProtobuf,
        state.NoSuchFile,
        state.NotImplemented,
        state.RuntimeException,
    )


@contextmanager
def _quiet() -> Iterator[None]:
    """The exporter tells its developers many things."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
