"""Download a published file once: resumed, verified, atomic, and shared by all processes of a machine.

Files lie in `$VIDEOSWIN_HOME` (default ~/.cache/videoswin). Only urllib is used, so proxies are those of the
environment (https_proxy, no_proxy).
"""

from __future__ import annotations

import hashlib
import http.client
import os
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from email.message import Message
from pathlib import Path
from typing import IO, Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

from videoswin._errors import InputError, VideoSwinError
from videoswin.weights.catalog import Entry

ATTEMPTS_WITHOUT_PROGRESS = 3
"""A cut connection is taken up again; after this many in a row that brought nothing, we give up."""
_CHUNK = 1 << 18  # bytes


class DownloadError(VideoSwinError, OSError):
    """A file could not be had. One line: what failed, and which file to put where instead."""


@dataclass(frozen=True)
class Timeouts:
    """How long to wait, in seconds."""

    answer: float = 8.0
    """For the server's first answer, name lookup and all its addresses included."""
    silence: float = 30.0
    """For the next bytes of a download under way."""


def cache_folder() -> Path:
    """$VIDEOSWIN_HOME, or ~/.cache/videoswin."""
    return Path(os.environ.get("VIDEOSWIN_HOME") or Path.home() / ".cache" / "videoswin").expanduser()


def cached_file(entry: Entry) -> Path:
    """Where the entry's file lies once it is there."""
    return cache_folder() / entry.file_name


def fetch(entry: Entry, *, timeouts: Timeouts | None = None) -> Path:
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
            f"{entry.name} is not on this machine and cannot be downloaded ({_reason(error)}); "
            f"put {entry.file_name} from {entry.url} into {path.parent}, "
            "or use --model camera-motion, which is always there"
        ) from error
    return path


def require_published_bytes(entry: Entry, path: Path) -> None:
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


def _download_from_any(entry: Entry, path: Path, timeouts: Timeouts) -> None:
    size = f"{entry.size_mb} MB, " if entry.size_mb else ""
    Console(stderr=True).print(
        f"Downloading {entry.name}: {entry.file_name}, {size}licence {entry.licence}", highlight=False
    )
    try:
        download(entry.url, path, sha256=entry.sha256, timeouts=timeouts, say_size=not entry.size_mb)
    except (OSError, http.client.HTTPException):
        if entry.mirror is None:
            raise
        download(entry.mirror, path, sha256=entry.sha256, timeouts=timeouts, say_size=not entry.size_mb)


def download(url: str, path: Path, *, sha256: str | None, timeouts: Timeouts, say_size: bool = False) -> None:
    """`url` as `path`, complete and verified, or an OSError and no file.

    sha256: the first hex digits of the file's hash, if known. What an earlier run left is continued only if a
    hash, or the version that the server gave it, can tell that the parts fit.
    say_size: print the server's figure, for want of a published one.
    """
    partial = path.with_name(path.name + ".part")
    if sha256 is None and not _version_file(partial).is_file():
        partial.unlink(missing_ok=True)
    continued = partial.is_file()
    with _progress_bar(path.name, say_size) as show:
        _receive(url, partial, timeouts, show)
    if sha256 is not None and not (found := _sha256_of(partial)).startswith(sha256):
        partial.unlink()
        if continued:
            return download(url, path, sha256=sha256, timeouts=timeouts, say_size=say_size)
        raise OSError(f"the server sent other bytes: SHA-256 {found[:8]}..., wanted {sha256[:8]}...")
    os.replace(partial, path)
    _version_file(partial).unlink(missing_ok=True)


def _receive(url: str, partial: Path, timeouts: Timeouts, show: Callable[[int, int | None], None]) -> None:
    """Append to `partial` until the server calls it complete, taking up cut connections where they ended."""
    fruitless, best = 0, _size(partial)
    while True:
        try:
            total = _receive_once(url, partial, timeouts, show)
            if total is None or _size(partial) == total:
                return
            reason = f"the connection ends after {_size(partial)} of {total} bytes"
        except (urllib.error.HTTPError, _NoAnswer):
            raise
        except (OSError, http.client.HTTPException) as error:
            reason = _reason(error)
        fruitless = 0 if _size(partial) > best else fruitless + 1
        best = max(best, _size(partial))
        if fruitless == ATTEMPTS_WITHOUT_PROGRESS:
            raise OSError(reason)
        time.sleep(0.3 * fruitless)


def _receive_once(
    url: str, partial: Path, timeouts: Timeouts, show: Callable[[int, int | None], None]
) -> int | None:
    """One request for what `partial` lacks; gives the size of the whole file, None if the server does not."""
    have, version_file = _size(partial), _version_file(partial)
    request = urllib.request.Request(url, headers={"User-Agent": "videoswin", "Accept-Encoding": "identity"})
    if have:
        request.add_header("Range", f"bytes={have}-")
        if version_file.is_file():
            request.add_header("If-Range", version_file.read_text())  # another version is sent whole
    try:
        response = _open(request, timeouts)
    except urllib.error.HTTPError as error:
        error.close()
        if error.code != 416:
            raise
        # Nothing comes after what we have: it is the whole file, or not this file's beginning.
        if error.headers.get("Content-Range") != f"bytes */{have}":
            partial.unlink()
        return have
    with response:
        if response.headers.get_content_type() == "text/html":
            raise _NoAnswer("the server sent a web page, not the file; a proxy or a login may be in the way")
        resumed = response.status == 206 and response.headers.get("Content-Range", "").startswith(
            f"bytes {have}-"
        )
        if response.status == 206 and not resumed:
            raise ConnectionError("the server sent another part of the file than the one asked for")
        length = response.headers.get("Content-Length")
        total = None if length is None else int(length) + (have if resumed else 0)
        with partial.open("ab" if resumed else "wb") as file:
            if not resumed:  # and the part of another version is gone
                _keep_version(version_file, response.headers)
            show(file.tell(), total)
            while chunk := response.read(_CHUNK):
                file.write(chunk)
                show(file.tell(), total)
    return total


def _version_file(partial: Path) -> Path:
    """Where the server's name for the version that `partial` belongs to is kept."""
    return partial.with_name(partial.name + ".version")


def _keep_version(version_file: Path, headers: Message) -> None:
    """Write the ETag, or else the date; a weak ETag does not promise the same bytes."""
    etag = headers.get("ETag", "")
    version = etag if etag.startswith('"') else headers.get("Last-Modified")
    if version:
        version_file.write_text(version)
    else:
        version_file.unlink(missing_ok=True)


class _NoAnswer(OSError):
    """The server is out of reach or not the one we want: asking again would only take time."""


def _open(request: urllib.request.Request, timeouts: Timeouts) -> Any:
    """The response, within `timeouts.answer` whatever the name lookup and the number of addresses."""
    outcome: list[Any] = []
    too_late = threading.Event()

    def ask() -> None:
        try:
            opener = urllib.request.build_opener()  # urlopen would keep the proxies of its first call
            response = opener.open(request, timeout=timeouts.silence)
        except Exception as error:
            outcome.append(error)
        else:
            outcome.append(response)
            if too_late.is_set():
                response.close()

    # Neither the lookup nor the walk through the addresses takes a timeout, so a thread is abandoned instead.
    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(timeouts.answer)
    if not outcome:
        too_late.set()
        raise _NoAnswer(f"no answer within {timeouts.answer:g} s")
    (answer,) = outcome
    if isinstance(answer, urllib.error.HTTPError):
        raise answer
    if isinstance(answer, urllib.error.URLError):
        raise _NoAnswer(_reason(answer))
    if isinstance(answer, Exception):
        raise answer
    return answer


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0


def _sha256_of(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def _reason(error: BaseException) -> str:
    """The error as part of a sentence."""
    if isinstance(error, urllib.error.HTTPError):
        return f"the server answers {error.code} {error.reason}"
    inner = error.reason if isinstance(error, urllib.error.URLError) else error
    if isinstance(inner, OSError) and inner.strerror:
        return inner.strerror if inner.filename is None else f"{inner.strerror}: {inner.filename}"
    return str(inner) or type(inner).__name__


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
def _progress_bar(title: str, say_size: bool) -> Iterator[Callable[[int, int | None], None]]:
    """A function to call with (bytes so far, bytes in all), shown on a terminal and silent elsewhere."""
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(
        *columns, TimeRemainingColumn(), console=console, disable=not console.is_terminal
    ) as progress:
        task = progress.add_task(title, total=None)

        def show(done: int, total: int | None) -> None:
            if say_size and total and progress.tasks[task].total is None:  # the first time
                console.print(f"{title}: {total / 1e6:.0f} MB", highlight=False)
            progress.update(task, completed=done, total=total)

        yield show
