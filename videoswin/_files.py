"""Files that are written whole or not at all, and locks on them."""

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
    """Yield a file to write beside `path`, which replaces it once it is complete and on the disk.

    Raises:
        OSError: The system refused to write, as on a full disk; names `path`. The file before is kept.
    """
    partial = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with naming(path):
            yield partial
            with partial.open("rb+") as file:  # some file systems find only now that they are full
                os.fsync(file.fileno())
            # Some writers make files that nobody else may read; the umask decides who may read a checkpoint.
            partial.chmod(0o666 & ~_umask())
            os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Name `path` in every OSError from inside, also where a library hides the system's error in its own."""
    try:
        yield
    except Exception as error:
        if type(error) is RuntimeError and isinstance(error.__context__, OSError):
            error = error.__context__  # torch.save: it still writes the end of the archive, and fails again
        hidden = re.search(r"\(os error (\d+)\)", str(error))  # as Rust says it, in safetensors
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
    """Hold a lock on the file `path`, created if need be; yields False if another process or thread holds it.

    The system releases it when this process ends, however it ends. Processes forked from this one do not
    hold it. The file stays: to remove it would let two processes lock two files of that name.
    """
    name = path.resolve()
    # The system's lock does not keep out other threads, and ends when any of them closes the file.
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
            # Not flock: data workers that outlive a killed process would hold that for some seconds.
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            # Other errors: a file system without locks, where nothing is known of other processes.
            return error.errno not in (errno.EACCES, errno.EAGAIN)
        return True


@contextmanager
def replacing_all(path: Path) -> Iterator[Path]:
    """As `replacing`, for writers that want the real name, or write other files beside it."""
    with naming(path), TemporaryDirectory(prefix=f".{path.name}.", dir=path.parent) as folder:
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
