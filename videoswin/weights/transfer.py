"""Transfer one file over HTTP: interrupted downloads are resumed, size and time are limited.

The server is not trusted: its response is checked before any byte is kept. Only urllib is used, so proxies
are those of the environment (https_proxy, no_proxy).
"""

from __future__ import annotations

import errno
import http.client
import queue
import re
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Generator
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass
from email.message import Message
from pathlib import Path
from typing import IO, Any, Final

from videoswin._text import printable

ATTEMPTS_WITHOUT_PROGRESS = 3
"""Number of consecutive attempts without a new byte after which a download fails."""
MAX_BYTES: Final = 1 << 32
"""Maximum size of a file whose size is not published; the largest published file has a quarter of it."""
_CHUNK = 1 << 18  # bytes
_STALL_BYTES = 1 << 16
"""Bytes that must arrive within `Timeouts.stall`: about 1 kB/s by default."""
_VERSION = re.compile(rb"[\x20-\x7e]{1,1000}")
_DISK_ERRNOS = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS})


@dataclass(frozen=True)
class Timeouts:
    """Time limits of a download, in seconds."""

    answer: float = 8.0
    """Limit for the first response, including name lookup and all addresses of the server."""
    silence: float = 30.0
    """Limit for the next bytes of a running download."""
    stall: float = 60.0
    """Limit for the next 64 kB; a slower download fails, and the next run resumes it."""
    retry: float = 0.3
    """Delay before a lost connection is reopened; it grows with each attempt without a new byte."""


Show = Callable[[int, int | None], None]
"""Called with the received bytes, and the total bytes or None if unknown."""


def receive(
    url: str, partial: Path, timeouts: Timeouts, show: Show, max_bytes: int, *, may_be_unmeasured: bool
) -> None:
    """Append to `partial` until the file is complete; resume after lost connections.

    Args:
        url: URL of the file.
        partial: File to append to; it may have the start of the file from an earlier run.
        timeouts: Time limits.
        show: Progress callback.
        max_bytes: Maximum size of the file.
        may_be_unmeasured: Accept a response of unknown length, because a hash is checked afterward.

    Raises:
        OSError: The server refused, sent too much, or was too slow.
    """
    fruitless, best = 0, _size(partial)
    while True:
        try:
            total = _receive_once(url, partial, timeouts, show, max_bytes, may_be_unmeasured)
            if total is None or _size(partial) == total:
                return
            reason = f"the connection ends after {_size(partial)} of {total} bytes"
        except (urllib.error.HTTPError, _Refused):
            raise
        except (OSError, http.client.HTTPException) as error:
            if isinstance(error, OSError) and error.errno in _DISK_ERRNOS:
                raise
            reason = describe_error(error)
        fruitless = 0 if _size(partial) > best else fruitless + 1
        best = max(best, _size(partial))
        if fruitless == ATTEMPTS_WITHOUT_PROGRESS:
            raise OSError(reason)
        time.sleep(timeouts.retry * fruitless)


def _receive_once(
    url: str, partial: Path, timeouts: Timeouts, show: Show, max_bytes: int, may_be_unmeasured: bool
) -> int | None:
    """Request the missing part of the file and append it to `partial`.

    Returns:
        The size of the whole file, or None if the server did not send it and ended the response properly.
    """
    have, version = _size(partial), kept_version(partial)
    request = urllib.request.Request(url, headers={"User-Agent": "videoswin", "Accept-Encoding": "identity"})
    if have:
        request.add_header("Range", f"bytes={have}-")
        if version is not None:
            request.add_header("If-Range", version)  # another version is sent from its start
    try:
        response = _open(request, timeouts)
    except urllib.error.HTTPError as error:
        error.close()
        if error.code != 416 or not have:
            raise
        # `partial` may be the whole file or belong to another version.
        partial.unlink()
        raise ConnectionError(f"the server has no bytes after the first {have}") from error
    with ExitStack() as stack:
        stack.callback(response.close)
        total = _require_file(response, have, may_be_unmeasured)
        if total is not None and total > max_bytes:
            raise _Refused(f"the file must have <= {max_bytes} bytes, got {total}")
        resumed = response.status == 206
        if resumed and have and not _same_version(response.headers, version):
            partial.unlink()
            raise ConnectionError("the server has another version of the file than the partial download")
        stack.pop_all()  # _chunks closes the response from here on
    with (
        closing(_chunks(response, timeouts.stall)) as chunks,
        partial.open("ab" if resumed else "wb") as file,
    ):
        if not resumed:  # opening the file has removed a part of another version
            _keep_version(partial, response.headers)
        show(file.tell(), total)
        for chunk in chunks:
            if file.tell() + len(chunk) > max_bytes:
                raise _Refused(f"the file must have <= {max_bytes} bytes, got more")
            file.write(chunk)
            show(file.tell(), total)
    return total


def _require_file(response: Any, have: int, may_be_unmeasured: bool) -> int | None:
    """Return the size of the whole file according to the headers, or None if they do not have it.

    Raises:
        _Refused: The response is not a file, or its completeness could not be checked.
    """
    headers = response.headers
    if response.status not in (200, 206):
        raise _Refused(f"the response must be 200 OK, got {response.status} {response.reason}")
    if headers.get_content_type() == "text/html":
        raise _Refused("the server sent a web page, not the file; a proxy or a login may be in the way")
    if (coding := headers.get("Content-Encoding", "identity")) != "identity":
        raise _Refused(f"the server sent the file encoded as {coding!r}, which was not requested")
    length = headers.get("Content-Length")
    if length is not None and not re.fullmatch("[0-9]{1,18}", length):
        raise _Refused(f"Content-Length must be a number of bytes, got {length!r}")
    if response.status == 206:
        found = re.fullmatch(
            "bytes ([0-9]{1,18})-([0-9]{1,18})/([0-9]{1,18})", headers.get("Content-Range", "")
        )
        first, last, total = map(int, found.groups()) if found else (-1, -1, -1)
        if first != have or not first <= last < total or length not in (None, str(last + 1 - first)):
            raise ConnectionError("the server sent another part of the file than the one requested")
        return total
    if length is None and not response.chunked and not may_be_unmeasured:
        raise _Refused("the server does not send the length of the file, and no hash of it is published")
    return None if length is None else int(length)


def _chunks(response: Any, stall: float) -> Generator[bytes, None, None]:
    """Yield the body as it arrives; raise `_Refused` if _STALL_BYTES take more than `stall` seconds."""
    arrived: queue.Queue[bytes | Exception] = queue.Queue(maxsize=8)
    abandoned = threading.Event()

    def read() -> None:
        try:
            with response:
                while not abandoned.is_set() and (chunk := response.read1(_CHUNK)):
                    arrived.put(chunk)
            arrived.put(b"")
        except Exception as error:
            arrived.put(error)

    # A thread, because the header of a chunk may arrive so slowly that one call of read1 takes days.
    threading.Thread(target=read, daemon=True).start()
    count, deadline = 0, time.monotonic() + stall
    try:
        while chunk := arrived.get(timeout=max(deadline - time.monotonic(), 0)):
            if isinstance(chunk, Exception):
                raise chunk
            yield chunk
            count += len(chunk)
            if count >= _STALL_BYTES:
                count, deadline = 0, time.monotonic() + stall
    except queue.Empty:
        raise _Refused(f"the server sent only {count} bytes in {stall:g} s; run again to resume") from None
    finally:
        abandoned.set()
        with suppress(queue.Empty):
            while True:  # make room in the queue, so that the thread can end
                arrived.get_nowait()


def version_file(partial: Path) -> Path:
    """Return the path of the file with the server's version (ETag or date) of `partial`."""
    return partial.with_name(partial.name + ".version")


def kept_version(partial: Path) -> str | None:
    """Return the version that `_keep_version` wrote, or None if there is no valid one."""
    file = version_file(partial)
    version = file.read_bytes() if file.is_file() else b""
    return version.decode("ascii") if _VERSION.fullmatch(version) else None


def _keep_version(partial: Path, headers: Message) -> None:
    version = (_version(headers) or "").encode("utf-8", "replace")
    if _VERSION.fullmatch(version):
        version_file(partial).write_bytes(version)
    else:
        version_file(partial).unlink(missing_ok=True)


def _version(headers: Message) -> str | None:
    """Return the ETag, or else the date; a weak ETag does not guarantee the same bytes."""
    etag = headers.get("ETag", "")
    return etag if etag.startswith('"') else headers.get("Last-Modified")


def _same_version(headers: Message, version: str | None) -> bool:
    """Return whether a 206 response has the requested version; it may omit the date, but not the ETag."""
    sent = _version(headers)
    return version is None or sent == version or (sent is None and not version.startswith('"'))


class _Refused(OSError):
    """The server is unreachable or its response is not acceptable; a retry would not help."""


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follow redirects from https to https and from http to either, and refuse others."""

    def http_error_302(
        self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, headers: Any
    ) -> Any:
        fp.close()  # urllib would read its body, which may be endless
        return super().http_error_302(req, fp, code, msg, headers)

    http_error_301 = http_error_303 = http_error_307 = http_error_308 = http_error_302

    def redirect_request(
        self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, headers: Any, newurl: str
    ) -> urllib.request.Request | None:
        scheme = newurl.partition(":")[0].lower()
        if scheme != "https" and (scheme, req.type) != ("http", "http"):
            raise _Refused(f"the server redirects from {req.type} to {newurl}, which is not followed")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _open(request: urllib.request.Request, timeouts: Timeouts) -> Any:
    """Return the response, or raise after `timeouts.answer` seconds, name lookup included."""
    outcome: list[Any] = []
    timed_out = threading.Event()

    def ask() -> None:
        try:
            opener = urllib.request.build_opener(
                _Redirects
            )  # urlopen would keep the proxies of its first call
            response = opener.open(request, timeout=timeouts.silence)
        except Exception as error:
            outcome.append(error)
        else:
            outcome.append(response)
            if timed_out.is_set():
                response.close()

    # Neither the lookup nor the loop over addresses has a timeout, so a thread is abandoned instead.
    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(timeouts.answer)
    if not outcome:
        timed_out.set()
        raise _Refused(f"no answer within {timeouts.answer:g} s")
    (answer,) = outcome
    if isinstance(answer, urllib.error.HTTPError):
        raise answer
    if isinstance(answer, urllib.error.URLError):
        raise _Refused(describe_error(answer))
    if isinstance(answer, ValueError):  # a redirect to an invalid address
        raise _Refused(describe_error(answer))
    if isinstance(answer, Exception):
        raise answer
    return answer


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0


def describe_error(error: BaseException) -> str:
    """Return the error as one printable line, for use in a sentence."""
    inner = error.reason if type(error) is urllib.error.URLError else error
    if isinstance(error, urllib.error.HTTPError):
        text = f"the server returned {error.code} {error.reason}"
    elif isinstance(inner, OSError) and inner.strerror:
        text = inner.strerror if inner.filename is None else f"{inner.strerror}: {inner.filename}"
    else:
        text = str(inner) or type(inner).__name__
    return printable(" ".join(text.split()))
