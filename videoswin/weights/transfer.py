"""One file over HTTP: resumed where the connection was cut, and bounded in size and in time.

The server is not trusted: what it answers is checked before a byte is kept. Only urllib is used, so proxies
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
"""A cut connection is taken up again; after this many in a row that brought nothing, we give up."""
MAX_BYTES: Final = 1 << 32
"""Most bytes of a file whose size is not published; the largest published one has a quarter."""
_CHUNK = 1 << 18  # bytes
_STALL_BYTES = 1 << 16
"""Bytes that `Timeouts.stall` must bring: about 1 kB a second by default."""
_VERSION = re.compile(rb"[\x20-\x7e]{1,1000}")
_DISK_ERRNOS = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS})


@dataclass(frozen=True)
class Timeouts:
    """How long to wait, in seconds."""

    answer: float = 8.0
    """For the server's first answer, name lookup and all its addresses included."""
    silence: float = 30.0
    """For the next bytes of a download under way."""
    stall: float = 60.0
    """For the next 64 kB; a download that is slower ends, and is resumed by the next run."""
    retry: float = 0.3
    """Before a cut connection is taken up again; longer after each attempt that brought nothing."""


Show = Callable[[int, int | None], None]
"""Called with (bytes so far, bytes in all, None if unknown)."""


def receive(
    url: str, partial: Path, timeouts: Timeouts, show: Show, max_bytes: int, *, may_be_unmeasured: bool
) -> None:
    """Append to `partial` until the server calls it complete, taking up cut connections where they ended."""
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
    """Request what `partial` lacks and append it.

    Returns:
        The size of the whole file, or None if the server does not say it and sent an end.
    """
    have, version = _size(partial), kept_version(partial)
    request = urllib.request.Request(url, headers={"User-Agent": "videoswin", "Accept-Encoding": "identity"})
    if have:
        request.add_header("Range", f"bytes={have}-")
        if version is not None:
            request.add_header("If-Range", version)  # another version is sent whole
    try:
        response = _open(request, timeouts)
    except urllib.error.HTTPError as error:
        error.close()
        if error.code != 416 or not have:
            raise
        # Nothing comes after what we have: it may be the whole file, or one of another version.
        partial.unlink()
        raise ConnectionError(f"the server has nothing after {have} bytes") from error
    with ExitStack() as stack:
        stack.callback(response.close)
        total = _require_file(response, have, may_be_unmeasured)
        if total is not None and total > max_bytes:
            raise _Refused(f"the file must have at most {max_bytes} bytes, the server has {total}")
        resumed = response.status == 206
        if resumed and have and not _same_version(response.headers, version):
            partial.unlink()
            raise ConnectionError("the server has another version of the file than the one begun")
        stack.pop_all()  # from here on _chunks closes it
    with (
        closing(_chunks(response, timeouts.stall)) as chunks,
        partial.open("ab" if resumed else "wb") as file,
    ):
        if not resumed:  # and the part of another version is gone
            _keep_version(partial, response.headers)
        show(file.tell(), total)
        for chunk in chunks:
            if file.tell() + len(chunk) > max_bytes:
                raise _Refused(f"the file must have at most {max_bytes} bytes, the server sends more")
            file.write(chunk)
            show(file.tell(), total)
    return total


def _require_file(response: Any, have: int, may_be_unmeasured: bool) -> int | None:
    """Return the size of the whole file as the headers give it, None if they do not.

    Raises `_Refused` if this is no file, or nobody could tell whether it is complete.
    """
    headers = response.headers
    if response.status not in (200, 206):
        raise _Refused(f"the server answers {response.status} {response.reason}, not 200 OK")
    if headers.get_content_type() == "text/html":
        raise _Refused("the server sent a web page, not the file; a proxy or a login may be in the way")
    if (coding := headers.get("Content-Encoding", "identity")) != "identity":
        raise _Refused(f"the server sent the file encoded as {coding!r}, which was not asked for")
    length = headers.get("Content-Length")
    if length is not None and not re.fullmatch("[0-9]{1,18}", length):
        raise _Refused(f"Content-Length must be a number of bytes, got {length!r}")
    if response.status == 206:
        sent = re.fullmatch(
            "bytes ([0-9]{1,18})-([0-9]{1,18})/([0-9]{1,18})", headers.get("Content-Range", "")
        )
        first, last, total = map(int, sent.groups()) if sent else (-1, -1, -1)
        if first != have or not first <= last < total or length not in (None, str(last + 1 - first)):
            raise ConnectionError("the server sent another part of the file than the one asked for")
        return total
    if length is None and not response.chunked and not may_be_unmeasured:
        raise _Refused("the server does not say how long the file is, and no hash of it is published")
    return None if length is None else int(length)


def _chunks(response: Any, stall: float) -> Generator[bytes, None, None]:
    """The body as it comes, first bytes at once. `_Refused` if it takes `stall` seconds for _STALL_BYTES."""
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

    # A thread, because a chunk's header may drip for days within one call of read1, and close waits for it.
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
            while True:  # let the thread go that waits for room
                arrived.get_nowait()


def version_file(partial: Path) -> Path:
    """Where the server's name for the version that `partial` belongs to is kept."""
    return partial.with_name(partial.name + ".version")


def kept_version(partial: Path) -> str | None:
    """What `_keep_version` wrote; None if there is nothing, or nothing that can be sent in a header."""
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
    """The ETag, or else the date; a weak ETag does not promise the same bytes."""
    etag = headers.get("ETag", "")
    return etag if etag.startswith('"') else headers.get("Last-Modified")


def _same_version(headers: Message, version: str | None) -> bool:
    """Whether a 206 is of the version that was asked for; it may leave out the date, but not the ETag."""
    sent = _version(headers)
    return version is None or sent == version or (sent is None and not version.startswith('"'))


class _Refused(OSError):
    """The server is out of reach or not the one we want: asking again would only take time."""


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follows redirects from https to https and from http to either, to nothing else."""

    def http_error_302(
        self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, headers: Any
    ) -> Any:
        fp.close()  # urllib would read its body, which may have no end
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
    """The response, within `timeouts.answer` whatever the name lookup and the number of addresses."""
    outcome: list[Any] = []
    too_late = threading.Event()

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
            if too_late.is_set():
                response.close()

    # Neither the lookup nor the walk through the addresses takes a timeout, so a thread is abandoned instead.
    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(timeouts.answer)
    if not outcome:
        too_late.set()
        raise _Refused(f"no answer within {timeouts.answer:g} s")
    (answer,) = outcome
    if isinstance(answer, urllib.error.HTTPError):
        raise answer
    if isinstance(answer, urllib.error.URLError):
        raise _Refused(describe_error(answer))
    if isinstance(answer, ValueError):  # a redirect to what is no address
        raise _Refused(describe_error(answer))
    if isinstance(answer, Exception):
        raise answer
    return answer


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0


def describe_error(error: BaseException) -> str:
    """The error as part of a sentence, in one line whatever the server sent."""
    inner = error.reason if type(error) is urllib.error.URLError else error
    if isinstance(error, urllib.error.HTTPError):
        text = f"the server answers {error.code} {error.reason}"
    elif isinstance(inner, OSError) and inner.strerror:
        text = inner.strerror if inner.filename is None else f"{inner.strerror}: {inner.filename}"
    else:
        text = str(inner) or type(inner).__name__
    return printable(" ".join(text.split()))
