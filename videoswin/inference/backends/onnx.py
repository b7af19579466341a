"""ONNX files, for ONNX Runtime and other programs that read them. Fixed frames and size, dynamic batch."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from videoswin._errors import InputError, require
from videoswin._text import in_one_line
from videoswin.weights.metadata import KEY, Metadata

if TYPE_CHECKING:
    from torch.export import ExportedProgram

OPSET: Final = 20
"""TensorRT 10 also reads this version; attention is written as matrix products and a softmax."""


def write(program: ExportedProgram, path: Path, metadata: Metadata) -> None:
    """Write an ONNX file with input `pixels` and output `logits`.

    Args:
        program: Result of `graph.trace`, which starts with a cast of its input.
        path: File to write.
        metadata: Metadata to store in the file.
    """
    require("onnxscript", extra="export")
    onnx = require("onnx", extra="export")
    # torch's fused attention cannot be translated with a dynamic batch; its math form can.
    with sdpa_kernel(SDPBackend.MATH), _quiet():
        written = torch.onnx.export(
            program,
            dynamo=True,
            opset_version=OPSET,
            input_names=["pixels"],
            output_names=["logits"],
            verbose=False,
            optimize=False,  # takes minutes, and the runtime optimizes the model anyway
        )
    assert written is not None
    model = written.model_proto
    _route_through_cast(model.graph)
    model.metadata_props.add(key=KEY, value=metadata.to_json())
    onnx.checker.check_model(model)
    onnx.save_model(model, path)


def _route_through_cast(graph: Any) -> None:
    """Connect all users of `pixels` to its cast, because TensorRT supports uint8 only as input of a cast."""
    casts = [node for node in graph.node if node.op_type == "Cast" and list(node.input) == ["pixels"]]
    assert len(casts) == 1, f"the program must have one cast of pixels, got {len(casts)}"
    cast = casts[0]
    graph.node.remove(cast)
    for node in graph.node:
        node.input[:] = [cast.output[0] if name == "pixels" else name for name in node.input]
    graph.node.insert(0, cast)


def load(
    path: Path, device: torch.device, *, trust: bool = False
) -> tuple[Metadata, Callable[[Tensor], Tensor]]:
    """Load a model in ONNX Runtime; `trust` has no effect, because ONNX files contain no code.

    Args:
        path: An .onnx file.
        device: Device to run on.
        trust: Ignored.

    Returns:
        Metadata of the file, and the function that runs it: uint8 (V, 3, T, S, S) -> logits (V, K).

    Raises:
        InputError: ONNX Runtime cannot use `device`, or the file is not a valid exported model.
    """
    runtime = require("onnxruntime", extra="export")
    _require_self_contained(path)
    provider = f"{device.type.upper()}ExecutionProvider"
    options = runtime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    on_card = {"device_id": device.index or 0} if device.type == "cuda" else {}
    session = None
    if provider in (available := runtime.get_available_providers()):
        session = _session(runtime, path, options, (provider, on_card))
    # ONNX Runtime silently drops a provider whose libraries are missing.
    if session is None or provider not in session.get_providers():
        raise InputError(
            f"device must be supported by this ONNX Runtime, which has {', '.join(available)}, got {device}; "
            "use --device cpu"
        )
    metadata = Metadata.of_exported_file(session.get_modelmeta().custom_metadata_map.get(KEY), path)

    def run(pixels: Tensor) -> Tensor:
        try:
            (logits,) = session.run(["logits"], {"pixels": pixels.cpu().numpy()})
        except _errors(runtime) as error:
            raise RuntimeError(str(error)) from error
        return torch.from_numpy(logits).to(device)

    return metadata, run


def _require_self_contained(path: Path) -> None:
    """Raise InputError for tensors in other files; ONNX Runtime up to 1.23 reads any file a model names."""
    onnx = require("onnx", extra="export")
    try:
        model = onnx.load(path, load_external_data=False)
    except Exception as error:
        if type(error).__name__ != "DecodeError":  # of protobuf, which is onnx's dependency, not ours
            raise
        return  # ONNX Runtime reports the error
    for tensor in _tensors(model):
        if tensor.external_data or tensor.data_location == onnx.TensorProto.EXTERNAL:
            raise InputError(
                f"{path} must have all of its weights, got {tensor.name!r} in another file; export it again"
            )


def _tensors(message: Any) -> Iterator[Any]:
    """Yield every tensor in an ONNX message, including subgraphs and functions."""
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
        raise InputError(f"ONNX Runtime cannot load {path}: {in_one_line(error)}") from error


def _errors(runtime: Any) -> tuple[type[Exception], ...]:
    """Return ONNX Runtime's exceptions, which have no common base class."""
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
    """Suppress the exporter's warnings and log messages."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
