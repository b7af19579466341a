"""Read the tensors of a weight file without running code from it.

torch.load is always called with weights_only=True. Training checkpoints also pickle objects of their
libraries (loss histories, configurations); the names of an allow-list are replaced by empty placeholders, and
all others are refused.
"""

from __future__ import annotations

import pickle
import pickletools
import re
import struct
import tarfile
import warnings
import zipfile
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

import safetensors.torch
import torch
from safetensors import SafetensorError, safe_open

from videoswin._errors import InputError


class Inert:
    """Placeholder for any allowed object: accepts all arguments and keeps nothing."""

    def __init__(self, *_arguments: object) -> None:
        pass

    def __new__(cls, *_arguments: object) -> Inert:
        return super().__new__(cls)

    def __setstate__(self, _state: object) -> None:
        pass


# mmengine#1655: its trainer pickles a HistoryBuffer for every logged value, and with it numpy arrays and,
# through getattr, the methods of the class.
_OBJECTS = (
    "mmengine.logging.history_buffer.HistoryBuffer",
    "builtins.getattr",
    "numpy.core.multiarray._reconstruct",
    "numpy._core.multiarray._reconstruct",
    "numpy.core.multiarray.scalar",
    "numpy._core.multiarray.scalar",
    "numpy.ndarray",
    "numpy.dtype",
    "argparse.Namespace",
    "pathlib.PosixPath",
)
# Lightning pickles its hyperparameters, and trainers started by Hydra their configuration.
_HYDRA_NODES = ("Any", "Boolean", "Bytes", "Enum", "Float", "Integer", "Path", "String", "Interpolation")
_HYDRA = (
    "omegaconf.dictconfig.DictConfig",
    "omegaconf.listconfig.ListConfig",
    "omegaconf.base.ContainerMetadata",
    "omegaconf.base.Metadata",
    "omegaconf.base.SCMode",
    *(f"omegaconf.nodes.{kind}Node" for kind in _HYDRA_NODES),
    "typing.Any",
    "pathlib.Path",
    *(f"builtins.{kind}" for kind in ("bool", "bytes", "dict", "float", "int", "list", "str", "tuple")),
)
# SimMIM and Swin pickle their configuration as a yacs dictionary, mmengine as one of its own. Lightning's
# hyperparameters are an AttributeDict.
_MAPPINGS = (
    "yacs.config.CfgNode",
    "mmengine.config.config.ConfigDict",
    "addict.addict.Dict",
    "lightning_fabric.utilities.data.AttributeDict",
    "lightning.fabric.utilities.data.AttributeDict",
    "pytorch_lightning.utilities.parsing.AttributeDict",
)


def _empty_mapping(*_factory: object) -> OrderedDict[Any, Any]:
    """Placeholder for defaultdict, whose factory would be called for missing keys."""
    return OrderedDict()


_PLACEHOLDERS: list[Any] = [
    *((Inert, name) for name in (*_OBJECTS, *_HYDRA)),
    *((OrderedDict, name) for name in _MAPPINGS),
    (_empty_mapping, "collections.defaultdict"),
]

# torch's readers raise any of these for a damaged file.
_UNREADABLE = (
    SafetensorError,
    zipfile.BadZipFile,
    ArithmeticError,
    AssertionError,
    MemoryError,
    struct.error,
    tarfile.TarError,
    pickle.UnpicklingError,
    RuntimeError,
    EOFError,
    OSError,
    ValueError,
    LookupError,
    AttributeError,
    TypeError,
)
_MAX_GROWTH = 8
"""Maximum size of the contents over the size of the file: several names may share their values."""
_MAX_TUPLE = 1_000_000
_HDF5, _ZIP = b"\x89HDF\r\n\x1a\n", b"PK\x03\x04"


def read_file(path: Path) -> tuple[Mapping[str, Any], dict[str, str]]:
    """Return the contents of a weight file, and its metadata if it is a safetensors file.

    The format (.safetensors, .pth, .pt, .torch or .bin) is detected by the first bytes, not by the name.

    Raises:
        InputError: The file has another format, is damaged, or would run code.
    """
    with path.open("rb") as file:
        start = file.read(9)
    if start.startswith(_HDF5) or path.suffix in (".h5", ".keras"):
        raise InputError(
            f"{path} must be a PyTorch or safetensors file, got a Keras file; the Keras ports are the "
            "official weights, which the catalog has under their own names (videoswin models)"
        )
    if (runtime := _exported_for(path, start)) is not None:
        raise InputError(
            f"{path} must be a checkpoint, got a model exported for {runtime}; give the checkpoint that it "
            "was exported from (only predict and evaluate run exported files)"
        )
    if start[8:9] == b"{" and not start.startswith(_ZIP):
        return _read_safetensors(path)
    return _read_pickle(path), {}


def _exported_for(path: Path, start: bytes) -> str | None:
    """Return the runtime of an exported file, or None for any other file."""
    if path.suffix == ".onnx":
        return "ONNX Runtime"
    if (path.suffix == ".xml" and start.startswith(b"<")) or (
        path.suffix == ".bin" and path.with_suffix(".xml").is_file()
    ):
        return "OpenVINO"
    if start.startswith(_ZIP):
        try:
            with zipfile.ZipFile(path) as archive:
                names = {name.partition("/")[2] for name in archive.namelist()}
        except _UNREADABLE:
            return None  # reading it reports the error
        if "archive_format" in names:
            return "PyTorch (.pt2)"
        if "constants.pkl" in names:
            return "TorchScript"
    return None


def _read_safetensors(path: Path) -> tuple[Mapping[str, Any], dict[str, str]]:
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
        return safetensors.torch.load_file(path), metadata
    except SafetensorError as error:
        raise InputError(f"{path} is a damaged safetensors file ({error})") from error


def _read_pickle(path: Path) -> Mapping[str, Any]:
    _require_loadable(path)
    try:
        with torch.serialization.safe_globals(_PLACEHOLDERS), warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Detected pickle protocol")
            warnings.filterwarnings("ignore", message="TypedStorage is deprecated")
            warnings.filterwarnings("ignore", message=".*TorchScript archive")
            contents = torch.load(path, map_location="cpu", weights_only=True)
    except _UNREADABLE as error:
        if refused := re.search(r"GLOBAL ([\w.]+\w)", str(error)):
            raise InputError(
                f"{path} must have only tensors and plain values, got {refused[1]}; it was not loaded and no "
                "code in it was run; if you trust the file, load it where the program that wrote it is "
                "installed, and save only its tensors: torch.save(model.state_dict(), 'weights.pth')"
            ) from error
        raise InputError(f"{path} is damaged or not a PyTorch file ({_first_sentence(error)})") from error
    if not isinstance(contents, Mapping):
        raise InputError(f"{path} must have a state dict, got a {type(contents).__name__}")
    _require_stored(contents, path)
    return contents


def _require_loadable(path: Path) -> None:
    """Raise InputError for a file that would take torch.load excessive memory or time for its size."""
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*invalid escape sequence")  # in a damaged pickle
            size, values = _examine(path)
    except _UNREADABLE as error:
        raise InputError(f"{path} is damaged or not a PyTorch file ({_first_sentence(error)})") from error
    if size > _MAX_GROWTH * path.stat().st_size:
        raise InputError(
            f"{path} must be an uncompressed archive, as torch.save writes, got {path.stat().st_size} bytes "
            f"that expand to {size}; save it again"
        )
    if values > _MAX_TUPLE:
        raise InputError(f"{path} must have tuples of at most {_MAX_TUPLE} values, got a larger one")


def _examine(path: Path) -> tuple[int, int]:
    """Return the unpacked size of the file and the number of values in its largest pickled tuple."""
    size, values = path.stat().st_size, 0
    if not zipfile.is_zipfile(path):
        with path.open("rb") as file:
            for _ in range(5):  # pickles of the legacy format before the values of the tensors
                if values <= _MAX_TUPLE:
                    values = max(values, _largest_tuple(file))
        return size, values
    with zipfile.ZipFile(path) as archive:
        unpacked = sum(member.file_size for member in archive.infolist())
        for member in archive.infolist():
            if member.filename.endswith(".pkl") and unpacked <= _MAX_GROWTH * size:
                with archive.open(member) as pickled:
                    values = max(values, _largest_tuple(pickled))
    return unpacked, values


def _largest_tuple(pickled: IO[bytes]) -> int:
    """Count the values of the largest tuple, inner tuples at each occurrence; stop above _MAX_TUPLE.

    Sixty tuples, each with the previous one twice, fit in 300 bytes, but hashing the last one takes years.
    """
    stack: list[int] = []  # values of each object on the unpickler's stack, -1 for a mark
    memo: dict[int, int] = {}
    largest = 0
    for opcode, argument, _ in pickletools.genops(pickled):
        if opcode.name in ("PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"):
            memo[len(memo) if argument is None else argument] = stack[-1]
        elif opcode.name in ("GET", "BINGET", "LONG_BINGET"):
            stack.append(memo[argument or 0])
        elif opcode.name == "MARK":
            stack.append(-1)
        else:
            values, taken = 1, opcode.stack_before
            if pickletools.markobject in taken:
                while (top := stack.pop()) != -1:
                    values += top
                taken = taken[: taken.index(pickletools.markobject)]
            values += sum(stack.pop() for _ in taken)
            if opcode.name not in ("TUPLE", "TUPLE1", "TUPLE2", "TUPLE3", "REDUCE", "NEWOBJ"):
                values = 1  # lists and dicts are not hashed
            stack += [values] * len(opcode.stack_after)
            largest = max(largest, values)
            if largest > _MAX_TUPLE:
                break
    return largest


def is_dense(tensor: torch.Tensor) -> bool:
    """Return whether every element of the tensor is stored, unlike in sparse and nested tensors."""
    return tensor.layout is torch.strided and not tensor.is_nested


def _require_stored(contents: Mapping[str, Any], path: Path) -> None:
    """Raise InputError if the tensors claim far more bytes than the file has, as expanded tensors do.

    The size of sparse and nested tensors is unknown; require_floating_point refuses them.
    """
    claimed, seen, mappings = 0, {id(contents)}, [contents]
    while mappings:
        for value in mappings.pop().values():
            if isinstance(value, Mapping) and id(value) not in seen:
                seen.add(id(value))
                mappings.append(value)
            elif isinstance(value, torch.Tensor) and value.is_meta:
                raise InputError(f"{path} must have the values of its tensors, got one on the meta device")
            elif isinstance(value, torch.Tensor) and is_dense(value):
                claimed += value.numel() * value.element_size()
    if claimed > _MAX_GROWTH * path.stat().st_size:
        raise InputError(
            f"{path} must have the values of its tensors, got {path.stat().st_size} bytes for tensors of "
            f"{claimed}; save contiguous tensors"
        )


def _first_sentence(error: Exception) -> str:
    text = str(error).strip().partition("\n")[0].partition(". ")[0]
    return text if len(text) > 8 else type(error).__name__
