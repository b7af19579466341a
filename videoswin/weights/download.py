"""Locate the file of a model; published files are downloaded to `$VIDEOSWIN_HOME` (~/.cache/videoswin).

A file is downloaded once for all processes of a machine; downloads are resumed, verified and atomic.
"""

from __future__ import annotations

import hashlib
import http.client
import os
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from videoswin._errors import InputError, VideoSwinError
from videoswin._files import lock
from videoswin._progress import Progress
from videoswin._text import did_you_mean
from videoswin.weights import catalog
from videoswin.weights.catalog import CatalogEntry, cache_folder
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
    """A file could not be downloaded. The message names the reason and where to put the file by hand."""


def locate(name: str, license: str | None) -> tuple[Path, CatalogEntry | None]:
    """Return the file of a model, downloaded if it is published, and its catalog entry if it has one."""
    if (entry := catalog.ENTRIES.get(name)) is not None:
        catalog.require_license(entry, license)
        return fetch(entry), entry
    bundled = catalog.BUNDLED / f"{name}.safetensors"
    if os.path.basename(name) == name and bundled.is_file():
        return bundled, None
    if os.path.isfile(name):
        path = Path(name)
        if (entry := catalog.entry_of_file(path.name)) is not None:
            require_published_bytes(entry, path)
        return path, entry
    known = [*catalog.ENTRIES, *(path.stem for path in catalog.BUNDLED.glob("*.safetensors"))]
    suggestion = did_you_mean(name, known, count=3, cutoff=0.5) or "`videoswin models` lists the names"
    what = "is a folder, not a file" if os.path.isdir(name) else "is neither a file nor the name of a model"
    raise InputError(f"{name!r} {what}; {suggestion}")


def fetch(entry: CatalogEntry, *, timeouts: Timeouts | None = None) -> Path:
    """Return the path of the entry's verified file; download it if it is not in the cache.

    Args:
        entry: Published file.
        timeouts: Time limits; None is Timeouts().

    Raises:
        DownloadError: The download failed.
        InputError: The cache has a file of that name with another hash.
    """
    path = entry.path
    if path.is_file():
        require_published_bytes(entry, path)
        return path
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with _one_process_at_a_time(path):
            if not path.is_file():  # another process may have downloaded it in the meantime
                _download_from_any(entry, path, timeouts or Timeouts())
    except (OSError, http.client.HTTPException) as error:
        raise DownloadError(
            f"{entry.name} is not in the cache and cannot be downloaded ({describe_error(error)}); "
            f"put {entry.file_name} from {entry.url} into {path.parent}, "
            "or use --model camera-motion, which is part of the package"
        ) from error
    return path


def require_published_bytes(entry: CatalogEntry, path: Path) -> None:
    """Raise InputError if the file does not have the published hash of the entry; most have none."""
    if entry.sha256 is not None and not (found := _sha256_of(path)).startswith(entry.sha256):
        cure = "remove it to download it again" if in_cache(path) else "rename or remove it"
        raise InputError(
            f"{path} must have the SHA-256 {entry.sha256[:8]}... of {entry.name}, as its name says, "
            f"got {found[:8]}...; {cure}"
        )


def in_cache(path: Path) -> bool:
    """Return whether a file is in the cache folder, so that it can be downloaded again."""
    return path.parent == cache_folder()


def _download_from_any(entry: CatalogEntry, path: Path, timeouts: Timeouts) -> None:
    from rich.console import Console

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
    """Download `url` to `path`, complete and verified, or raise an OSError and leave no file at `path`.

    Args:
        url: URL of the file. Redirects are followed, but not from https to another scheme.
        path: Destination. A partial download is kept next to it and resumed by the next run.
        sha256: First hex digits of the file's hash, if known. A partial download is resumed only if the hash
            or the server's version of the file can prove that the parts belong together.
        timeouts: Time limits for the server.
        max_bytes: Maximum size; a longer file is refused before or during the download.
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
        raise OSError(f"the file from the server must have the SHA-256 {sha256[:8]}..., got {found[:8]}...")
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
    """Wait until no other process or thread holds the lock file next to `path`, and hold it."""
    while True:
        with lock(path.with_name(path.name + ".lock")) as is_held:
            if is_held:
                yield
                return
        time.sleep(0.1)


@contextmanager
def _progress(title: str) -> Iterator[Show]:
    """Yield a function that shows (received bytes, total bytes or None) as a progress bar on stderr."""
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
