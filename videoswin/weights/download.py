"""Download a published file once: resumed, verified, atomic, and shared by all processes of a machine.

Files lie in `$VIDEOSWIN_HOME` (default ~/.cache/videoswin).
"""

from __future__ import annotations

import hashlib
import http.client
import os
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import IO

from rich.console import Console

from videoswin._errors import InputError, VideoSwinError
from videoswin._progress import Progress
from videoswin.weights.catalog import CatalogEntry
from videoswin.weights.transfer import (
    MAX_BYTES,
    Show,
    Timeouts,
    describe_error,
    kept_version,
    receive,
    version_file,
)

_CHUNK = 1 << 18  # bytes


class DownloadError(VideoSwinError, OSError):
    """A file could not be had. One line: what failed, and which file to put where instead."""


def cache_folder() -> Path:
    """$VIDEOSWIN_HOME, or ~/.cache/videoswin."""
    return Path(os.environ.get("VIDEOSWIN_HOME") or Path.home() / ".cache" / "videoswin").expanduser()


def cached_file(entry: CatalogEntry) -> Path:
    """Where the entry's file lies once it is there."""
    return cache_folder() / entry.file_name


def fetch(entry: CatalogEntry, *, timeouts: Timeouts | None = None) -> Path:
    """The entry's file on disk, downloaded if need be, and verified. DownloadError if it cannot be had.

    ValueError if a file of its name is there but is another.
    """
    path = cached_file(entry)
    if path.is_file():
        require_published_bytes(entry, path)
        return path
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with _one_process_at_a_time(path):
            if not path.is_file():  # another process may have been faster
                _download_from_any(entry, path, timeouts or Timeouts())
    except (OSError, http.client.HTTPException) as error:
        raise DownloadError(
            f"{entry.name} is not on this machine and cannot be downloaded ({describe_error(error)}); "
            f"put {entry.file_name} from {entry.url} into {path.parent}, "
            "or use --model camera-motion, which is always there"
        ) from error
    return path


def require_published_bytes(entry: CatalogEntry, path: Path) -> None:
    """ValueError if a hash is published for the entry and `path` has another."""
    if entry.sha256 is not None and not (found := _sha256_of(path)).startswith(entry.sha256):
        cure = "remove it to download it again" if in_cache(path) else "rename or remove it"
        raise InputError(
            f"{path} has the name of {entry.name}, but its SHA-256 is {found[:8]}..., "
            f"wanted {entry.sha256[:8]}...; {cure}"
        )


def in_cache(path: Path) -> bool:
    """True for a file that a download would bring back."""
    return path.parent == cache_folder()


def _download_from_any(entry: CatalogEntry, path: Path, timeouts: Timeouts) -> None:
    size = f"{entry.size_mb} MB, " if entry.size_mb else ""
    Console(stderr=True).print(
        f"Downloading {entry.name}: {entry.file_name}, {size}license {entry.license}", highlight=False
    )
    max_bytes = (entry.size_mb + 1) * 10**6 if entry.size_mb else MAX_BYTES
    for url in filter(None, (entry.url, entry.mirror)):
        try:
            return download(
                url,
                path,
                sha256=entry.sha256,
                timeouts=timeouts,
                max_bytes=max_bytes,
            )
        except (OSError, http.client.HTTPException) as error:
            last = error
    raise last


def download(
    url: str,
    path: Path,
    *,
    sha256: str | None,
    timeouts: Timeouts,
    max_bytes: int = MAX_BYTES,
) -> None:
    """Download `url` to `path`, complete and verified, or raise an OSError and leave no file there.

    Args:
        url: Where the file is. Redirects are followed, but not from https to another scheme.
        path: Where it goes. A partial download stays beside it, to be resumed.
        sha256: First hex digits of the file's hash, if known. What an earlier run left is continued only if a
            hash, or the version that the server gave it, can tell that the parts fit.
        timeouts: How long to wait for the server.
        max_bytes: A longer file is refused, before or while it comes.
    """
    partial = path.with_name(path.name + ".part")
    if sha256 is None and kept_version(partial) is None:
        partial.unlink(missing_ok=True)
    continued = partial.is_file()
    with _progress(path.name) as show:
        receive(url, partial, timeouts, show, max_bytes, may_be_unmeasured=sha256 is not None)
    if sha256 is not None and not (found := _sha256_of(partial)).startswith(sha256):
        partial.unlink()
        if continued:
            return download(url, path, sha256=sha256, timeouts=timeouts, max_bytes=max_bytes)
        raise OSError(f"the server sent other bytes: SHA-256 {found[:8]}..., wanted {sha256[:8]}...")
    os.replace(partial, path)
    version_file(partial).unlink(missing_ok=True)


def _sha256_of(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


@contextmanager
def _one_process_at_a_time(path: Path) -> Iterator[None]:
    """Hold the lock file beside `path`; the system frees it even if the holder dies."""
    with path.with_name(path.name + ".lock").open("w") as file:
        _lock(file)
        yield


if sys.platform == "win32":
    import msvcrt

    def _lock(file: IO[str]) -> None:
        while True:
            with suppress(OSError):  # LK_LOCK gives up after ten seconds
                return msvcrt.locking(file.fileno(), msvcrt.LK_LOCK, 1)

else:
    import fcntl

    def _lock(file: IO[str]) -> None:
        fcntl.flock(file, fcntl.LOCK_EX)


@contextmanager
def _progress(title: str) -> Iterator[Show]:
    """Yield a function to call with (bytes so far, bytes in all or None), which shows them on stderr."""
    with ExitStack() as stack:
        bars: list[Progress] = []

        def show(done: int, total: int | None) -> None:
            if not bars:
                bar = Progress(title, None if total is None else _megabytes(total), "MB")
                bars.append(stack.enter_context(bar))
                bar.resume(_megabytes(done))
            bars[0].advance_to(_megabytes(done))

        yield show


def _megabytes(num_bytes: int) -> int:
    return round(num_bytes / 1e6)
