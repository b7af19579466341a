"""torch.export programs (.pt2), optionally compiled to machine code by AOTInductor.

torch does not check that loading a program is safe: torch.export.load unpickles weights, constants and sample
inputs, evaluates expressions, imports modules by name, calls any function of torch and compiles names as
Python source. Therefore everything in an untrusted archive must be on an allow-list of what
`videoswin export` writes: its members, the fields of their JSON and their text.
"""

from __future__ import annotations

import json
import keyword
import os
import re
import reprlib
import zipfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Final

import torch
from torch import Tensor

from videoswin._errors import InputError
from videoswin._text import in_one_line
from videoswin.acceleration.cpu import warn_if_emulated
from videoswin.weights.metadata import KEY, Metadata

if TYPE_CHECKING:
    from torch.export import ExportedProgram

ComputeLogits = Callable[[Tensor], Tensor]


def write(program: ExportedProgram, path: Path, metadata: Metadata) -> None:
    """Write a program that torch runs without this package, and without contents that torch unpickles.

    Args:
        program: Result of `graph.trace`; its stack traces and example inputs are removed.
        path: A .pt2 file.
        metadata: Metadata to write into the file.
    """
    from torch.export import save

    for node in program.graph.nodes:
        # Remove stack traces, which have the paths of this machine.
        node.meta = {"val": node.meta["val"]} if "val" in node.meta else {}
    program.example_inputs = None
    save(program, path, extra_files={KEY: metadata.to_json()})


def write_compiled(program: ExportedProgram, path: Path, metadata: Metadata) -> None:
    """Compile the program to machine code for this processor and write it; this needs a C++ compiler.

    Args:
        program: Result of `graph.trace`.
        path: A .pt2 file.
        metadata: Metadata to write into the file.
    """
    from torch._inductor import aoti_compile_and_package

    configs = {"aot_inductor.metadata": {KEY: metadata.to_json()}}
    aoti_compile_and_package(program, package_path=os.fspath(path), inductor_configs=configs)


def load(path: Path, device: torch.device, *, trust: bool = False) -> tuple[Metadata, ComputeLogits]:
    """Load a program, compiled or not.

    Args:
        path: A .pt2 file.
        device: Device to run on.
        trust: Also load files that may run code: compiled programs, and programs not written by
            `videoswin export`.

    Raises:
        InputError: The file is not a program, is damaged, or is not trusted.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, ValueError, NotImplementedError) as error:
        raise InputError(f"{path} must be a torch.export archive, got a damaged file") from error
    if not any(name.endswith("archive_format") for name in names):
        raise InputError(f"{path} must be a torch.export archive, got another zip file")
    compiled = any("aotinductor" in name for name in names)
    if not trust:
        if compiled:
            raise InputError(
                f"{path} was not loaded, because it is machine code compiled by AOTInductor; if you trust "
                "its author, use --trust (in Python: trust=True)"
            )
        require_harmless(path)
    return _load_compiled(path, device) if compiled else _load_program(path, device)


def _load_program(path: Path, device: torch.device) -> tuple[Metadata, ComputeLogits]:
    from torch.export import load as load_program  # slow to import
    from torch.export.passes import move_to_device_pass

    extra = {KEY: ""}
    try:
        program = load_program(path, extra_files=extra)
        metadata = Metadata.of_exported_file(extra[KEY], path)
        # Not module.to(device), because the graph itself has devices.
        module = move_to_device_pass(program, device).module()
    except InputError:
        raise
    # torch's reader raises many exceptions for damaged files; the cause is kept.
    except Exception as error:
        raise InputError(
            f"{path} is a torch.export archive that does not load: {in_one_line(error)}"
        ) from error
    if metadata.precision == "bf16":
        warn_if_emulated(device, torch.bfloat16)

    def run(pixels: Tensor) -> Tensor:
        logits: Tensor = module(pixels.to(device))
        return logits

    return metadata, run


def _load_compiled(path: Path, device: torch.device) -> tuple[Metadata, ComputeLogits]:
    from torch._inductor import aoti_load_package

    package = aoti_load_package(os.fspath(path))
    metadata = package.get_metadata()
    built_for = metadata.get("AOTI_DEVICE_KEY", "cpu")
    if built_for != device.type:
        raise InputError(
            f"device must be {built_for}, for which {path} was compiled, got {device}; "
            f"use --device {built_for}"
        )

    def run(pixels: Tensor) -> Tensor:
        logits: Tensor = package(pixels.to(device))
        return logits

    return Metadata.of_exported_file(metadata.get(KEY), path), run


_PROGRAM: Final = "models/model.json"
_TENSOR_LISTS: Final = {
    "data/weights/model_weights_config.json": "weight",
    "data/constants/model_constants_config.json": "tensor",
}
_SAMPLE_INPUTS: Final = "data/sample_inputs/model.pt"
_TENSOR: Final = re.compile(r"data/(weights/weight|constants/tensor)_\d+")
_EXTRA: Final = re.compile(r"extra/\w+", re.ASCII)
_OTHER_MEMBERS: Final = {
    "archive_format",
    "archive_version",
    "byteorder",
    ".data/version",
    ".data/serialization_id",
}

# Each computes a tensor from tensors: none reads a file, calls a function or accesses memory out of bounds.
_ATEN: Final = """
    _assert_tensor_metadata.default add.Tensor alias.default cat.default clamp.default contiguous.default
    div.Tensor dropout.default expand.default flatten.using_ints gather.default gelu.default
    index_select.default layer_norm.default linear.default mean.dim mul.Tensor new_zeros.default
    permute.default reshape.default scaled_dot_product_attention.default slice.Tensor
    split_with_sizes.default std_mean.correction sub.Tensor sum.dim_IntList sym_size.int t.default
    to.dtype to.dtype_layout transpose.int view.default
"""
_OPERATORS: Final = frozenset(f"torch.ops.aten.{name}" for name in _ATEN.split())
# Fields that must be empty: torch evaluates some of them, and the programs of this package have none.
_EMPTY: Final = frozenset(
    {
        "custom_obj_values",
        "guards_code",
        "metadata",
        "sym_bool_values",
        "sym_float_values",
        "treespec_namedtuple_fields",
    }
)
# Fields whose keys are names defined by the program.
_MAPS: Final = frozenset({"opset_version", "range_constraints", "tensor_values", "sym_int_values", "config"})
_RECORDS: Final = """
    graph_module schema_version major minor verifiers torch_version min_val max_val graph signature
    module_call_graph inputs outputs nodes is_single_tensor_return target name arg kind
    is_hop_single_tensor_return dtype sizes strides storage_offset requires_grad layout device type index
    expr_str hint input_specs output_specs user_input user_output parameter parameter_name buffer buffer_name
    persistent tensor_constant tensor_constant_name fqn in_spec out_spec forward_arg_names path_name is_param
    use_pickle tensor_meta as_tensor as_tensors as_int as_ints as_float as_floats as_bool as_bools as_none
    as_sym_int as_sym_ints as_name as_expr as_scalar_type as_memory_format as_layout as_device
"""
_FIELDS: Final = _EMPTY | _MAPS | frozenset(_RECORDS.split())
_SYMBOL: Final = r"Symbol\('s\d{1,4}', positive=True, integer=True\)"
_TEXT: Final = {
    "expr_str": re.compile(rf"{_SYMBOL}|Mul\(Integer\(\d{{1,9}}\), {_SYMBOL}\)|(\d{{1,9}}\*)?s\d{{1,4}}"),
    "in_spec": re.compile(
        re.escape(
            '[1, {"type": "builtins.tuple", "context": "null", "children_spec": [{"type": "builtins.tuple", '
            '"context": "null", "children_spec": [{"type": null, "context": null, "children_spec": []}]}, '
            '{"type": "builtins.dict", "context": "[]", "children_spec": []}]}]'
        )
    ),
    "out_spec": re.compile(re.escape('[1, {"type": null, "context": null, "children_spec": []}]')),
    "torch_version": re.compile(r"[\w.+-]{1,100}", re.ASCII),
    "type": re.compile("cpu"),
}
# Fields with dotted names of modules and tensors; all other names become names in Python source.
_DOTTED: Final = frozenset({"fqn", "parameter_name", "buffer_name", "tensor_constant_name", "config"})


class RefusedError(ValueError):
    """An archive has contents that are not on the allow-list and may run code."""


def require_harmless(path: Path) -> None:
    """Raise InputError unless the archive has only contents that `videoswin export` writes."""
    try:
        _check_archive(path)
    except (ValueError, LookupError, TypeError, AttributeError, AssertionError, RuntimeError) as error:
        raise InputError(
            f"{path} was not loaded and no code in it was run: {str(error).partition(chr(10))[0]}. A .pt2 "
            "file of another program or an earlier version may run code; if you trust its author, use "
            "--trust (in Python: trust=True)"
        ) from error


def _check_archive(path: Path) -> None:
    from torch.export.pt2_archive import PT2ArchiveReader  # the reader that will load it

    reader = PT2ArchiveReader(os.fspath(path))
    names = reader.get_file_names()
    with zipfile.ZipFile(path) as archive:
        listed = archive.namelist()
    # torch uses both readers, and one may see members that the other does not.
    root = listed[0].partition("/")[0]
    if len({name.lower() for name in names}) != len(names) or sorted(listed) != sorted(
        f"{root}/{name}" for name in names
    ):
        raise RefusedError("its list of members is ambiguous")
    sizes = {name: reader.archive_file.get_record_size(name) for name in names}
    if sum(sizes.values()) > path.stat().st_size:
        raise RefusedError("its members are compressed")
    _check_members(sizes)
    for name, prefix in _TENSOR_LISTS.items():
        tensors = json.loads(reader.read_bytes(name))
        _check(tensors, "")
        for entry in tensors["config"].values():
            if entry["use_pickle"] is not False:
                raise RefusedError("it has a pickled tensor")
            if not re.fullmatch(rf"{prefix}_\d+", entry["path_name"]):
                raise RefusedError(f"a tensor is in {reprlib.repr(entry['path_name'])}")
    _check(json.loads(reader.read_bytes(_PROGRAM)), "")


def _check_members(sizes: dict[str, int]) -> None:
    for name, size in sizes.items():
        if _TENSOR.fullmatch(name):
            if size == 0:
                raise RefusedError(f"{name} is empty")
        elif name == _SAMPLE_INPUTS:
            if size > 0:
                raise RefusedError("it has pickled sample inputs")
        elif name not in _OTHER_MEMBERS | _TENSOR_LISTS.keys() | {_PROGRAM} and not _EXTRA.fullmatch(name):
            raise RefusedError(f"it has a member {name[:80]!r}")


def _check(value: object, field: str) -> None:
    """Check a JSON value and all values in it; `field` is the name of its field."""
    if field in _EMPTY and value:
        raise RefusedError(f"it has {field}: {reprlib.repr(value)}")
    if isinstance(value, dict):
        for key, inner in value.items():
            if field in _MAPS:
                _require_names(key.split(".") if field in _DOTTED else [key])
                _check(inner, "")
            elif key in _FIELDS:
                _check(inner, key)
            elif inner:  # a later version of torch may have more fields that are empty
                raise RefusedError(f"it has a field {key[:80]!r}")
    elif isinstance(value, list):
        for inner in value:
            _check(inner, field)
    elif isinstance(value, str):
        _check_text(value, field)


def _check_text(text: str, field: str) -> None:
    if field == "target":
        if text not in _OPERATORS:
            raise RefusedError(f"it calls {text[:80]!r}")
    elif field in _TEXT:
        if not _TEXT[field].fullmatch(text):
            raise RefusedError(f"it has {field}: {text[:80]!r}")
    elif field == "path_name":
        pass  # checked by _check_archive
    elif text or field not in _DOTTED:
        _require_names(text.split(".") if field in _DOTTED else [text])


def _require_names(parts: Iterable[str]) -> None:
    for part in parts:
        # Modules in a list are numbered.
        if not part.isascii() or not (part.isidentifier() or part.isdigit()) or keyword.iskeyword(part):
            raise RefusedError(f"it has a name {part[:80]!r}")
