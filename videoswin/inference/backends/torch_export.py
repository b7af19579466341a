"""torch.export programs (.pt2), optionally compiled to machine code by AOTInductor."""

from __future__ import annotations

import os
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from videoswin._errors import InputError
from videoswin._text import in_one_line
from videoswin.acceleration.cpu import warn_if_emulated
from videoswin.inference.backends.archive import require_harmless
from videoswin.inference.backends.metadata import KEY, ExportMetadata, LoadedFile

if TYPE_CHECKING:
    from torch.export import ExportedProgram


def write(program: ExportedProgram, path: Path, metadata: ExportMetadata) -> None:
    """Write a program that torch runs without this package, and without contents that torch unpickles."""
    from torch.export import save

    for node in program.graph.nodes:
        # Remove stack traces, which have the paths of this machine.
        node.meta = {"val": node.meta["val"]} if "val" in node.meta else {}
    program.example_inputs = None
    save(program, path, extra_files={KEY: metadata.to_json()})


def write_compiled(program: ExportedProgram, path: Path, metadata: ExportMetadata) -> None:
    """Compile the program to machine code for this processor and write it; this needs a C++ compiler."""
    from torch._inductor import aoti_compile_and_package

    configs = {"aot_inductor.metadata": {KEY: metadata.to_json()}}
    aoti_compile_and_package(program, package_path=os.fspath(path), inductor_configs=configs)


def load(path: Path, device: torch.device, *, trust: bool) -> LoadedFile:
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


def _load_program(path: Path, device: torch.device) -> LoadedFile:
    from torch.export import load as load_program  # slow to import
    from torch.export.passes import move_to_device_pass

    extra = {KEY: ""}
    try:
        program = load_program(path, extra_files=extra)
        metadata = ExportMetadata.from_json(extra[KEY], path)
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

    return LoadedFile(metadata, run)


def _load_compiled(path: Path, device: torch.device) -> LoadedFile:
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

    return LoadedFile(ExportMetadata.from_json(metadata.get(KEY), path), run)
