"""Downloads from a misbehaving local server. No test connects to other hosts than 127.0.0.1."""

import contextlib
import dataclasses
import errno
import hashlib
import http.server
import io
import multiprocessing
import os
import socket
import threading
import time
import urllib.request
from pathlib import Path
from unittest import mock

import pytest
import torch

from videoswin.weights import catalog, transfer
from videoswin.weights.catalog import ENTRIES, CatalogEntry, cache_folder, load_labels
from videoswin.weights.checkpoint import Checkpoint
from videoswin.weights.convert import parameter_shapes
from videoswin.weights.download import DownloadError, download, fetch
from videoswin.weights.layouts import WRITERS
from videoswin.weights.transfer import Timeouts, receive

BODY = bytes(range(256)) * 4096  # 1 MiB
SHA256 = hashlib.sha256(BODY).hexdigest()
PATIENT = Timeouts(answer=60.0, silence=60.0, retry=0.0)
"""Never reached, however busy the machine is."""


class Server(http.server.ThreadingHTTPServer):
    """Serves BODY in the way its attributes say, and remembers what it was asked."""

    daemon_threads = True
    body = BODY
    ranges = True
    """Answer range requests; else send everything again."""
    cut_after: int | None = None
    """Bytes sent for each request before the connection is cut."""
    promised_more = 0
    """Bytes that Content-Length promises beyond the truth."""
    status = 200
    content_type = "application/octet-stream"
    delay = 0.0
    raw = None
    """A function that answers in place of all of the above: it is given the handler."""
    etag: str | None = None

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.requests = []

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_port}/model-7615ae03.pth"


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        server = self.server
        server.requests.append(self.headers.get("Range"))
        time.sleep(server.delay)
        if server.raw is not None:
            self.close_connection = True
            with contextlib.suppress(ConnectionError):
                server.raw(self)
            return
        start = 0
        same_version = self.headers.get("If-Range") in (None, server.etag)
        if server.ranges and same_version and (wanted := self.headers.get("Range")):
            start = int(wanted.removeprefix("bytes=").removesuffix("-"))
        if start >= len(server.body):
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{len(server.body)}")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        body = server.body[start:]
        self.send_response(206 if start else server.status)
        self.send_header("Content-Type", server.content_type)
        if server.etag:
            self.send_header("ETag", server.etag)
        self.send_header("Content-Length", str(len(body) + server.promised_more))
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(server.body) - 1}/{len(server.body)}")
        self.end_headers()
        with contextlib.suppress(ConnectionError):  # clients may have given up
            self.wfile.write(body[: server.cut_after])

    def log_message(self, *_args):
        pass


@pytest.fixture
def server():
    server = Server()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("VIDEOSWIN_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def entry_at(url: str, sha256: str | None = SHA256[:8]) -> CatalogEntry:
    return dataclasses.replace(ENTRIES["tiny-k400"], url=url, sha256=sha256)


def files_in(folder):
    return sorted(path.name for path in folder.iterdir() if path.suffix != ".lock")


def test_file_is_downloaded_verified_and_kept(server, home, capsys):
    path = fetch(entry_at(server.url), timeouts=PATIENT)
    assert path == home / "model-7615ae03.pth"
    assert path.read_bytes() == BODY
    assert "127 MB, license BSD-3-Clause" in capsys.readouterr().err
    assert fetch(entry_at(server.url)) == path
    assert server.requests == [None]
    assert files_in(home) == ["model-7615ae03.pth"]


def test_size_is_the_servers_where_none_is_published(server, capsys):
    server.cut_after = 400_000
    fetch(dataclasses.replace(entry_at(server.url), size_mb=None), timeouts=PATIENT)
    assert capsys.readouterr().err.count("model-7615ae03.pth: 1 MB") == 1


def test_cut_connections_are_taken_up_where_they_ended(server):
    server.cut_after = 400_000
    assert fetch(entry_at(server.url), timeouts=PATIENT).read_bytes() == BODY
    assert server.requests == [None, "bytes=400000-", "bytes=800000-"]


def test_without_ranges_a_cut_download_starts_again_and_gives_up_in_the_end(server, home):
    server.cut_after, server.ranges = 400_000, False
    with pytest.raises(DownloadError, match="the connection ends after 400000 of 1048576 bytes"):
        fetch(entry_at(server.url), timeouts=PATIENT)
    assert len(server.requests) == 1 + transfer.ATTEMPTS_WITHOUT_PROGRESS
    assert not (home / "model-7615ae03.pth").exists()


def test_without_ranges_a_second_complete_answer_is_taken(server, tmp_path):
    (tmp_path / "x.part").write_bytes(BODY[:1000])
    server.ranges = False
    download(server.url, tmp_path / "x", sha256=SHA256, timeouts=PATIENT)
    assert (tmp_path / "x").read_bytes() == BODY


def test_part_of_an_earlier_run_is_continued(server, tmp_path):
    (tmp_path / "x.part").write_bytes(BODY[:1000])
    download(server.url, tmp_path / "x", sha256=SHA256, timeouts=PATIENT)
    assert (tmp_path / "x").read_bytes() == BODY
    assert server.requests == ["bytes=1000-"]


def test_part_of_an_earlier_run_is_dropped_where_no_hash_could_tell(server, tmp_path):
    (tmp_path / "x.part").write_bytes(b"another version")
    download(server.url, tmp_path / "x", sha256=None, timeouts=PATIENT)
    assert (tmp_path / "x").read_bytes() == BODY
    assert server.requests == [None]


def interrupted(server, path):
    """Leave what a run leaves that is cut off for good."""
    server.cut_after, server.ranges = 400_000, False
    with pytest.raises(OSError, match="the connection ends after"):
        download(server.url, path, sha256=None, timeouts=PATIENT)
    server.cut_after, server.ranges = None, True
    server.requests.clear()


def test_part_without_a_hash_is_continued_where_the_server_names_its_version(server, tmp_path):
    server.etag = '"v1"'
    interrupted(server, tmp_path / "x")
    download(server.url, tmp_path / "x", sha256=None, timeouts=PATIENT)
    assert (tmp_path / "x").read_bytes() == BODY
    assert server.requests == ["bytes=400000-"]
    assert files_in(tmp_path) == ["x"]


def test_part_of_an_older_version_is_replaced(server, tmp_path):
    server.etag = '"v1"'
    interrupted(server, tmp_path / "x")
    server.etag, server.body = '"v2"', BODY[::-1]
    download(server.url, tmp_path / "x", sha256=None, timeouts=PATIENT)
    assert (tmp_path / "x").read_bytes() == BODY[::-1]


def test_weak_version_is_no_promise(server, tmp_path):
    server.etag = 'W/"v1"'
    interrupted(server, tmp_path / "x")
    download(server.url, tmp_path / "x", sha256=None, timeouts=PATIENT)
    assert server.requests == [None]


def test_part_of_another_file_is_thrown_away(server, tmp_path):
    (tmp_path / "x.part").write_bytes(b"another version")
    download(server.url, tmp_path / "x", sha256=SHA256, timeouts=PATIENT)
    assert (tmp_path / "x").read_bytes() == BODY
    assert server.requests == ["bytes=15-", None]


@pytest.mark.parametrize("extra", [b"", b"and more"])
def test_part_that_is_already_as_long_as_the_file_or_longer_is_settled(extra, server, tmp_path):
    (tmp_path / "x.part").write_bytes(BODY + extra)
    download(server.url, tmp_path / "x", sha256=SHA256, timeouts=PATIENT)
    assert (tmp_path / "x").read_bytes() == BODY


def test_content_length_that_promises_too_much_is_found_out(server):
    server.promised_more = 77
    server.ranges = False
    with pytest.raises(DownloadError, match="ends after 1048576 of 1048653 bytes"):
        fetch(entry_at(server.url), timeouts=PATIENT)


def test_too_small_content_length_is_detected_by_the_hash(server, home):
    server.promised_more = -1000
    with pytest.raises(DownloadError, match="the file from the server must have the SHA-256"):
        fetch(entry_at(server.url), timeouts=PATIENT)
    assert files_in(home) == []


def test_wrong_bytes_are_refused_and_removed(server, home):
    server.body = b"x" * 1000
    found = hashlib.sha256(server.body).hexdigest()[:8]
    message = rf"must have the SHA-256 {SHA256[:8]}\.\.\., got {found}\.\.\."
    with pytest.raises(DownloadError, match=message) as error:
        fetch(entry_at(server.url), timeouts=PATIENT)
    assert "\n" not in str(error.value)
    assert files_in(home) == []


def test_web_page_in_place_of_a_file_is_refused(server, home):
    server.body, server.content_type = b"<html>log in</html>", "text/html; charset=utf-8"
    with pytest.raises(DownloadError, match="sent a web page, not the file"):
        fetch(entry_at(server.url, sha256=None), timeouts=PATIENT)
    assert files_in(home) == []


def test_missing_file_is_reported_at_once(server):
    server.status = 404
    with pytest.raises(DownloadError, match="the server returned 404 Not Found"):
        fetch(entry_at(server.url), timeouts=PATIENT)
    assert len(server.requests) == 1


def test_mirror_is_tried_second(server):
    entry = dataclasses.replace(entry_at(_nobody_listens()), mirror=server.url)
    assert fetch(entry, timeouts=PATIENT).read_bytes() == BODY


def test_offline_fails_with_one_line_that_says_what_to_put_where(home):
    url = _nobody_listens()
    with pytest.raises(DownloadError) as error:
        fetch(entry_at(url))
    assert str(error.value) == (
        "tiny-k400 is not in the cache and cannot be downloaded (Connection refused); "
        f"put model-7615ae03.pth from {url} into {home}, "
        "or use --model camera-motion, which is part of the package"
    )


def put_there_by_hand(entry, weights, config, monkeypatch, *, known_hash):
    """Save `weights` as the entry's file, and have its hash published if `known_hash`."""
    entry.path.parent.mkdir()
    torch.save(WRITERS[entry.layout](weights, config), entry.path)
    sha256 = hashlib.sha256(entry.path.read_bytes()).hexdigest()[:8] if known_hash else None
    changed = dataclasses.replace(entry, sha256=sha256)
    monkeypatch.setattr(catalog, "ENTRIES", {**ENTRIES, entry.name: changed})


@pytest.fixture
def small_tiny(config, monkeypatch):
    """A small architecture in the place of the published Swin-T, whose file has 110 MB."""
    small = config.replace(num_classes=400)
    monkeypatch.setattr("videoswin.weights.checkpoint.TINY", small)
    return small


def zeros(config):
    return {name: torch.zeros(shape) for name, shape in parameter_shapes(config).items()}


@pytest.mark.parametrize(
    ("known_hash", "identity"),
    [
        (True, "verified, its SHA-256 starts with"),
        (False, "recognized by its file name, no hash is published"),
    ],
)
def test_file_put_there_by_hand_is_used(known_hash, identity, small_tiny, monkeypatch):
    entry = ENTRIES["tiny-k400"]
    put_there_by_hand(entry, zeros(small_tiny), small_tiny, monkeypatch, known_hash=known_hash)
    checkpoint = Checkpoint.load("tiny-k400")
    assert (checkpoint.name, checkpoint.license, checkpoint.config) == (
        "tiny-k400",
        "BSD-3-Clause",
        small_tiny,
    )
    assert checkpoint.labels == load_labels("kinetics400")
    assert (checkpoint.clip, checkpoint.views) == entry.clip_and_views()
    assert checkpoint.lineage["url"] == entry.url
    assert checkpoint.lineage["identity"].startswith(identity)


def test_file_name_alone_earns_no_identity_where_a_hash_is_published(config, home, tmp_path):
    home.mkdir()
    for folder, cure in ((home, "remove it to download it again"), (tmp_path, "rename or remove it")):
        path = folder / ENTRIES["tiny-k400"].file_name
        torch.save(WRITERS["torchvision"](zeros(config), config), path)
        with pytest.raises(
            ValueError, match=rf"must have the SHA-256 7615ae03.* of tiny-k400, .*, got .*; {cure}"
        ):
            Checkpoint.load("tiny-k400" if folder == home else path)


def test_damaged_file_in_the_cache_says_how_to_get_it_again(home):
    home.mkdir()
    ENTRIES["base-ssv2"].path.write_bytes(b"PK\x03\x04" + bytes(64))
    with pytest.raises(ValueError, match=r"damaged or not a PyTorch file .*; remove it to download it again"):
        Checkpoint.load("base-ssv2")


def test_file_that_is_another_model_than_its_name_says_is_refused(weights, config, monkeypatch):
    put_there_by_hand(ENTRIES["tiny-k400"], weights, config, monkeypatch, known_hash=False)
    with pytest.raises(ValueError, match=r"must be tiny-k400, a tiny model, .* got another \(embed_dim 32"):
        Checkpoint.load("tiny-k400")


def test_silent_address_is_given_up_within_the_time_for_an_answer(server):
    given_up = threading.Event()
    server.raw = lambda _handler: given_up.wait(60)
    with pytest.raises(DownloadError, match=r"no answer within 0\.2 s"):
        fetch(entry_at(server.url), timeouts=Timeouts(answer=0.2))
    given_up.set()


def answering(head: str, body: bytes = BODY):
    """A raw answer: status line and headers, and a body."""

    def answer(handler):
        handler.wfile.write(b"HTTP/1.1 " + head.replace("\n", "\r\n").encode() + b"\r\n\r\n" + body)

    return answer


LENGTH = f"Content-Length: {len(BODY)}"


@pytest.mark.parametrize(
    ("head", "message"),
    [
        (f"204 No Content\n{LENGTH}", "the response must be 200 OK, got 204 No Content"),
        (f"203 Other\x1b[31m\n{LENGTH}", r"the response must be 200 OK, got 203 Other\\x1b\[31m"),
        (
            f"200 OK\n{LENGTH}\nContent-Encoding: gzip",
            "sent the file encoded as 'gzip', which was not requested",
        ),
        ("200 OK\nContent-Length: abc", "Content-Length must be a number of bytes, got 'abc'"),
        ("200 OK\nContent-Length: -5", "Content-Length must be a number of bytes, got '-5'"),
        ("200 OK\nContent-Length: " + "9" * 30, "Content-Length must be a number of bytes, got '999"),
        (
            "200 OK\nContent-Length: 9999999999",
            "must have <= 4294967296 bytes, got 9999999999",
        ),
        ("200 OK\nX: y", "does not send the length of the file, and no hash of it is published"),
        (f"206 Partial Content\n{LENGTH}", "the server sent another part of the file"),
        (f"206 Partial Content\n{LENGTH}\nContent-Range: bytes 5-9/10", "sent another part of the file"),
        ("302 Found\nLocation: ftp://127.0.0.1/x", "redirects from http to ftp://127.0.0.1/x, which is not"),
        (
            "302 Found\nLocation: file:///etc/passwd",
            "Redirection to url 'file:///etc/passwd' is not allowed",
        ),
        ("302 Found\nLocation: http://[::1", "Invalid IPv6 URL"),
        ("302 Found\nLocation: /again", "the server returned 302 .* infinite loop"),
        ("404 Not\x07 Found\nContent-Length: 0", r"the server returned 404 Not\\x07 Found"),
    ],
)
def test_answer_that_is_not_the_whole_file_is_refused_in_one_line(head, message, server, home):
    server.raw = answering(head)
    with pytest.raises(DownloadError, match=message) as error:
        fetch(dataclasses.replace(entry_at(server.url, sha256=None), size_mb=None), timeouts=PATIENT)
    assert "\n" not in str(error.value)
    assert not (home / "model-7615ae03.pth").exists()


def test_redirect_from_https_to_http_is_not_followed():
    request = urllib.request.Request("https://weights.invalid/x")
    for url in ("http://weights.invalid/x", "ftp://weights.invalid/x", "HTTP://weights.invalid/x"):
        with pytest.raises(OSError, match=r"redirects from https to .*, which is not followed"):
            transfer._Redirects().redirect_request(request, io.BytesIO(), 302, "Found", {}, url)
    for url in ("https://other.invalid/y", "HTTPS://other.invalid/y"):
        assert (
            transfer._Redirects().redirect_request(request, io.BytesIO(), 302, "Found", {}, url) is not None
        )


def test_redirect_from_http_to_http_is_followed_and_its_endless_body_not_read(server):
    def answer(handler):
        server.raw = None
        answering("302 Found\nLocation: /elsewhere", b"")(handler)
        while True:
            handler.wfile.write(bytes(1 << 18))

    server.raw = answer
    assert fetch(entry_at(server.url), timeouts=PATIENT).read_bytes() == BODY


CHUNKED = "200 OK\nTransfer-Encoding: chunked"


def endless(handler):
    answering(CHUNKED, b"")(handler)
    while True:
        handler.wfile.write(b"40000\r\n" + bytes(1 << 18) + b"\r\n")


def test_endless_body_ends_at_the_known_size(server, home):
    server.raw = endless
    entry = dataclasses.replace(entry_at(server.url), size_mb=2)
    with pytest.raises(DownloadError, match="must have <= 3000000 bytes, got more"):
        fetch(entry, timeouts=PATIENT)
    assert (home / "model-7615ae03.pth.part").stat().st_size <= 3_000_000


def test_length_beyond_the_known_size_is_refused_before_the_first_byte(server, home):
    entry = dataclasses.replace(entry_at(server.url), size_mb=2)
    server.promised_more = 10**9
    with pytest.raises(DownloadError, match="must have <= 3000000 bytes, got 1001048576"):
        fetch(entry, timeouts=PATIENT)
    assert len(server.requests) == 1
    assert files_in(home) == []


def test_chunked_body_without_hash_is_complete_only_with_its_end(server, tmp_path):
    whole = b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in (BODY[:1000], BODY[1000:]))
    server.raw = answering(CHUNKED, whole + b"0\r\n\r\n")
    download(server.url, tmp_path / "x", sha256=None, timeouts=PATIENT)
    assert (tmp_path / "x").read_bytes() == BODY
    server.raw = answering(CHUNKED, whole)
    with pytest.raises(OSError, match="IncompleteRead"):
        download(server.url, tmp_path / "y", sha256=None, timeouts=PATIENT)
    assert not (tmp_path / "y").exists()


@pytest.mark.parametrize(
    ("head", "drop"),
    [("200 OK\nContent-Length: 1000", b"x"), (CHUNKED, b"1\r\nx\r\n"), (CHUNKED, b"0")],
    ids=["length", "chunks", "header of a chunk"],
)
def test_slow_drip_ends_and_can_be_resumed(head, drop, server, tmp_path):
    stop = threading.Event()

    def drip(handler):
        answering(head, b"")(handler)
        while not stop.wait(0.01):
            handler.wfile.write(drop)

    server.raw = drip
    with pytest.raises(OSError, match=r"the server sent only \d+ bytes in 0\.2 s; run again to resume"):
        download(server.url, tmp_path / "x", sha256=SHA256, timeouts=Timeouts(stall=0.2))
    stop.set()
    assert len(server.requests) == 1
    assert not (tmp_path / "x").exists()
    assert (tmp_path / "x.part").exists()


def test_first_bytes_are_shown_before_the_rest_comes(server, tmp_path):
    shown = threading.Event()
    body = BODY[:20]

    def answer(handler):
        answering("200 OK\nContent-Length: 20", body[:10])(handler)
        assert shown.wait(30)
        handler.wfile.write(body[10:])

    server.raw = answer
    receive(
        server.url,
        tmp_path / "x",
        PATIENT,
        lambda done, _total: shown.set() if done == 10 else None,
        max_bytes=20,
        may_be_unmeasured=False,
    )
    assert (tmp_path / "x").read_bytes() == body


def test_part_of_another_version_is_dropped_although_the_server_ignores_if_range(server, tmp_path):
    server.etag = '"v1"'
    interrupted(server, tmp_path / "x")
    server.body = BODY[::-1]
    head = (
        f'206 Partial Content\nETag: "v2"\nContent-Length: {len(BODY) - 400_000}\n'
        f"Content-Range: bytes 400000-{len(BODY) - 1}/{len(BODY)}"
    )

    def answer(handler):
        server.raw = None
        answering(head, server.body[400_000:])(handler)

    server.raw, server.etag = answer, '"v2"'
    download(server.url, tmp_path / "x", sha256=None, timeouts=PATIENT)
    assert (tmp_path / "x").read_bytes() == BODY[::-1]
    assert server.requests == ["bytes=400000-", None]


def test_old_version_as_long_as_the_new_file_is_not_taken_for_it(server, tmp_path):
    server.etag = '"v1"'
    interrupted(server, tmp_path / "x")

    def answer(handler):
        server.raw = None
        answering("416 Range Not Satisfiable\nContent-Range: bytes */400000\nContent-Length: 0", b"")(handler)

    server.raw = answer
    download(server.url, tmp_path / "x", sha256=None, timeouts=PATIENT)
    assert (tmp_path / "x").read_bytes() == BODY
    assert server.requests == ["bytes=400000-", None]


def test_part_that_is_shorter_than_the_range_asked_for_is_followed_by_the_rest(server, tmp_path):
    (tmp_path / "x.part").write_bytes(BODY[:1000])

    def answer(handler):
        server.raw = None
        head = f"206 Partial Content\nContent-Length: 500\nContent-Range: bytes 1000-1499/{len(BODY)}"
        answering(head, BODY[1000:1500])(handler)

    server.raw = answer
    download(server.url, tmp_path / "x", sha256=SHA256, timeouts=PATIENT)
    assert (tmp_path / "x").read_bytes() == BODY
    assert server.requests == ["bytes=1000-", "bytes=1500-"]


@pytest.mark.parametrize("damage", [b"", b"\xff\xfe", b'"v1"\r\nX: y', b"\x1b[31m", b'"v1"' * 1000])
def test_damaged_version_file_only_restarts_the_download(damage, server, tmp_path):
    server.etag = '"v1"'
    interrupted(server, tmp_path / "x")
    (tmp_path / "x.part.version").write_bytes(damage)
    download(server.url, tmp_path / "x", sha256=None, timeouts=PATIENT)
    assert (tmp_path / "x").read_bytes() == BODY
    assert server.requests == [None]


@pytest.mark.parametrize("etag", ['"\xff"', '"' + "v" * 2000 + '"'])
def test_version_that_cannot_be_sent_back_is_not_kept(etag, server, tmp_path):
    server.etag = etag
    interrupted(server, tmp_path / "x")
    assert files_in(tmp_path) == ["x.part"]


def test_full_disk_is_not_tried_again_and_the_download_resumes(server, home, monkeypatch):
    room = [400_000]
    real_open = Path.open

    def open_on_a_full_disk(path, mode="r", *args, **keywords):
        file = real_open(path, mode, *args, **keywords)
        if path.suffix == ".part" and mode != "rb":
            write = file.write

            def limited(data):
                if (room[0] - len(data)) < 0:
                    raise OSError(errno.ENOSPC, "No space left on device")
                room[0] -= len(data)
                return write(data)

            file = mock.MagicMock(wraps=file, write=limited)
            file.__enter__.return_value = file
            file.__exit__.side_effect = lambda *_: file.close()
        return file

    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", open_on_a_full_disk)
        with pytest.raises(DownloadError, match=r"cannot be downloaded \(No space left on device\)"):
            fetch(entry_at(server.url), timeouts=PATIENT)
    have = (home / "model-7615ae03.pth.part").stat().st_size
    assert 0 < have <= 400_000
    assert fetch(entry_at(server.url), timeouts=PATIENT).read_bytes() == BODY
    assert server.requests == [None, f"bytes={have}-"]


def test_proxy_of_the_environment_is_used(server, monkeypatch):
    monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setenv("no_proxy", "")
    url = "http://weights.invalid/model-7615ae03.pth"
    assert fetch(entry_at(url), timeouts=PATIENT).read_bytes() == BODY


def test_concurrent_processes_download_once(server, home):
    server.delay = 0.3
    context = multiprocessing.get_context("spawn")
    entry = entry_at(server.url)
    processes = [context.Process(target=fetch, args=(entry,)) for _ in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0] * 2
    assert len(server.requests) == 1
    assert entry.path.read_bytes() == BODY


def test_folder_that_cannot_be_written_is_named(server, home):
    home.write_text("a file where the folder should be")
    with pytest.raises(DownloadError, match="File exists"):
        fetch(entry_at(server.url), timeouts=PATIENT)


def test_default_cache_folder_is_in_the_home(home, monkeypatch):
    assert cache_folder() == home
    monkeypatch.delenv("VIDEOSWIN_HOME")
    assert cache_folder() == type(home)(os.path.expanduser("~")) / ".cache" / "videoswin"


def _nobody_listens():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{free.getsockname()[1]}/model-7615ae03.pth"
