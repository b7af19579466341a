"""Files that are written whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory, TemporaryFile

from videoswin._errors import InputError


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A file to write beside `path`, which takes its place once it is complete."""
    partial = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        yield partial
        # Some writers make files that nobody else may read; a checkpoint is for whoever the user lets.
        partial.chmod(0o666 & ~_umask())
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


@contextmanager
def replacing_all(path: Path) -> Iterator[Path]:
    """As `replacing`, for writers that want the real name, or write other files beside it."""
    with TemporaryDirectory(prefix=f".{path.name}.", dir=path.parent) as folder:
        yield Path(folder, path.name)
        # The one that names the others comes last, and an older one goes first: nobody reads half of each.
        *others, main = sorted(Path(folder).iterdir(), key=lambda made: made.name == path.name)
        if others:
            path.unlink(missing_ok=True)
        for made in (*others, main):
            os.replace(made, path.parent / made.name)


def require_writable_folder(path: str | os.PathLike[str], *, name: str) -> None:
    """Raise if files cannot be written into the folder, before the work is done whose results go there.

    Args:
        path: The folder; it need not exist, and is not created.
        name: The option or argument that named it, for the message.

    Raises:
        InputError: The folder cannot be created or written to.
    """
    folder = Path(path)
    try:
        while not folder.exists():
            folder = folder.parent
        _write_something(folder)
    except OSError as error:
        raise InputError(
            f"{name} must be a folder that can be written to, got {path}: {error.strerror}: {folder}"
        ) from error


def require_writable_file(path: str | os.PathLike[str], *, name: str) -> None:
    """Raise if the file cannot be written, before the work is done whose result it gets; leave it as it is.

    Args:
        path: The file; its folder must exist.
        name: The option or argument that named it, for the message.

    Raises:
        InputError: It is a folder, or its folder does not exist or cannot be written to.
    """
    reason = "a folder" if os.path.isdir(path) else None
    try:
        _write_something(os.path.dirname(path) or os.curdir)
    except OSError as error:
        reason = f"{error.strerror}: {os.path.dirname(path) or os.curdir}"
    if reason is not None:
        raise InputError(f"{name} must be a file that can be written, got {path}: {reason}")


def _write_something(folder: str | os.PathLike[str]) -> None:
    """Write a byte into a file that vanishes at once; permissions alone do not tell whether that works."""
    with TemporaryFile(dir=folder) as file:
        file.write(b"0")


def _umask() -> int:
    """What the process takes from the permissions of new files; it can only be read by setting it."""
    mask = os.umask(0o077)
    os.umask(mask)
    return mask
