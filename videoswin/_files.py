"""Atomic writing of files, file locks, and checks that files can be written."""

from __future__ import annotations

import os
import re
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory, TemporaryFile
from typing import IO

from videoswin._errors import InputError


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path next to `path`; on success the file replaces `path` once it is on the disk.

    Args:
        path: File to write; an existing file is kept if an exception is raised.

    Raises:
        OSError: The file cannot be written, e.g. because the disk is full; its filename is `path`.
    """
    partial = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with naming(path):
            yield partial
            with partial.open("rb+") as file:  # some file systems report a full disk only here
                os.fsync(file.fileno())
            # Some libraries create private files; the umask decides who may read a checkpoint.
            partial.chmod(0o666 & ~_umask())
            os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Replace a file by one with this text in UTF-8, atomically and with its newlines unchanged.

    Undecodable bytes of file names, as surrogates, are written as escapes such as `\\udcff`, like in JSON.

    Raises:
        OSError: As in `replacing`.
    """
    with replacing(path) as partial:
        partial.write_text(text, encoding="utf-8", errors="backslashreplace", newline="")


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Set the filename of every OSError inside to `path`, also if a library wraps the OSError."""
    try:
        yield
    except Exception as error:
        if type(error) is RuntimeError and isinstance(error.__context__, OSError):
            error = error.__context__  # torch.save fails a second time when it closes the archive
        hidden = re.search(r"\(os error (\d+)\)", str(error))  # format of Rust's errors, in safetensors
        number = error.errno if isinstance(error, OSError) else int(hidden[1]) if hidden else None
        if number is None or _is_of_another_folder(error, path):
            raise
        raise OSError(number, os.strerror(number), str(path)) from error


def _is_of_another_folder(error: Exception, path: Path) -> bool:
    name = getattr(error, "filename", None)
    return isinstance(name, (str, os.PathLike)) and Path(name).parent != path.parent


_locking = threading.Lock()
_held: set[Path] = set()


@contextmanager
def lock(path: Path) -> Iterator[bool]:
    """Lock the file `path` and yield True, or yield False if another process or thread has the lock.

    The file is created if needed and never removed, because two processes could then lock two files of that
    name. The operating system releases the lock when this process ends; forked processes do not have it.
    """
    name = path.resolve()
    # The system's lock does not exclude other threads, and is released when any of them closes the file.
    with _locking:
        is_free = name not in _held
        _held.add(name)
    if not is_free:
        yield False
        return
    try:
        with path.open("a") as file:
            yield _lock(file)
    finally:
        _held.discard(name)


if sys.platform == "win32":
    import msvcrt

    def _lock(file: IO[str]) -> bool:
        try:
            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
        except OSError:
            return False
        return True

else:
    import errno
    import fcntl

    def _lock(file: IO[str]) -> bool:
        try:
            # Not flock: data workers that outlive a killed process would hold it for some seconds.
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            # Other errors mean a file system without locks; assume that no other process uses the file.
            return error.errno not in (errno.EACCES, errno.EAGAIN)
        return True


@contextmanager
def replacing_all(path: Path) -> Iterator[Path]:
    """Like `replacing`, for libraries that need the final file name or write additional files next to it."""
    with naming(path), TemporaryDirectory(prefix=f".{path.name}.", dir=path.parent) as folder:
        yield Path(folder, path.name)
        # Remove the old main file first and move the new one last, so that old and new files are never mixed.
        *others, main = sorted(Path(folder).iterdir(), key=lambda file: file.name == path.name)
        if others:
            path.unlink(missing_ok=True)
        for file in (*others, main):
            os.replace(file, path.parent / file.name)


def require_writable_folder(path: str | os.PathLike[str], *, name: str) -> None:
    """Check before long work that its results can be written into a folder.

    Args:
        path: The folder; it need not exist, and is not created.
        name: Name of the option or argument, for the message.

    Raises:
        InputError: The folder cannot be created or written to.
    """
    folder = Path(path)
    try:
        while not folder.exists():
            folder = folder.parent
        _write_test_byte(folder)
    except OSError as error:
        raise InputError(
            f"{name} must be a writable folder, got {path}: {error.strerror}: {folder}"
        ) from error


def require_writable_file(path: str | os.PathLike[str], *, name: str) -> None:
    """Check before long work that its result can be written to a file, without changing the file.

    Args:
        path: The file; its folder must exist.
        name: Name of the option or argument, for the message.

    Raises:
        InputError: The path is a folder, or its folder does not exist or cannot be written to.
    """
    reason = "a folder" if os.path.isdir(path) else None
    try:
        _write_test_byte(os.path.dirname(path) or os.curdir)
    except OSError as error:
        reason = f"{error.strerror}: {os.path.dirname(path) or os.curdir}"
    if reason is not None:
        raise InputError(f"{name} must be a writable file, got {path}: {reason}")


def _write_test_byte(folder: str | os.PathLike[str]) -> None:
    """Write a byte to a temporary file, because permissions alone do not prove that writing works."""
    with TemporaryFile(dir=folder) as file:
        file.write(b"0")


def _umask() -> int:
    """Return the umask of the process, which can only be read by setting it."""
    mask = os.umask(0o077)
    os.umask(mask)
    return mask
