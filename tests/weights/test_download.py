"""Downloads from a local server that misbehaves. Nothing here leaves 127.0.0.1."""

import contextlib
import dataclasses
import hashlib
import http.server
import multiprocessing
import os
import socket
import threading
import time

import pytest
import torch

from videoswin.weights import catalog
from videoswin.weights import download as module
from videoswin.weights.catalog import ENTRIES, Entry
from videoswin.weights.checkpoint import Checkpoint
from videoswin.weights.convert import WRITERS
from videoswin.weights.download import DownloadError, Timeouts, cache_folder, cached_file, download, fetch
from videoswin.weights.labels import load_labels
from videoswin.weights.layout import parameter_shapes

BODY = bytes(range(256)) * 4096  # 1 MiB
SHA256 = hashlib.sha256(BODY).hexdigest()
QUICK = Timeouts(answer=2.0, silence=2.0)


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


def entry_at(url: str, sha256: str | None = SHA256[:8]) -> Entry:
    return dataclasses.replace(ENTRIES["tiny-k400"], url=url, sha256=sha256)


def files_in(folder):
    return sorted(path.name for path in folder.iterdir() if path.suffix != ".lock")


def test_file_is_downloaded_verified_and_kept(server, home, capsys):
    path = fetch(entry_at(server.url), timeouts=QUICK)
    assert path == home / "model-7615ae03.pth"
    assert path.read_bytes() == BODY
    assert "127 MB, licence BSD-3-Clause" in capsys.readouterr().err
    assert fetch(entry_at(server.url)) == path
    assert server.requests == [None]
    assert files_in(home) == ["model-7615ae03.pth"]


def test_size_is_the_servers_where_none_is_published(server, capsys):
    server.cut_after = 400_000
    fetch(dataclasses.replace(entry_at(server.url), size_mb=None), timeouts=QUICK)
    assert capsys.readouterr().err.count("model-7615ae03.pth: 1 MB") == 1


def test_cut_connections_are_taken_up_where_they_ended(server):
    server.cut_after = 400_000
    assert fetch(entry_at(server.url), timeouts=QUICK).read_bytes() == BODY
    assert server.requests == [None, "bytes=400000-", "bytes=800000-"]


def test_without_ranges_a_cut_download_starts_again_and_gives_up_in_the_end(server, home):
    server.cut_after, server.ranges = 400_000, False
    with pytest.raises(DownloadError, match="the connection ends after 400000 of 1048576 bytes"):
        fetch(entry_at(server.url), timeouts=QUICK)
    assert len(server.requests) == 1 + module.ATTEMPTS_WITHOUT_PROGRESS
    assert not (home / "model-7615ae03.pth").exists()


def test_without_ranges_a_second_complete_answer_is_taken(server, tmp_path):
    (tmp_path / "x.part").write_bytes(BODY[:1000])
    server.ranges = False
    download(server.url, tmp_path / "x", sha256=SHA256, timeouts=QUICK)
    assert (tmp_path / "x").read_bytes() == BODY


def test_part_of_an_earlier_run_is_continued(server, tmp_path):
    (tmp_path / "x.part").write_bytes(BODY[:1000])
    download(server.url, tmp_path / "x", sha256=SHA256, timeouts=QUICK)
    assert (tmp_path / "x").read_bytes() == BODY
    assert server.requests == ["bytes=1000-"]


def test_part_of_an_earlier_run_is_dropped_where_no_hash_could_tell(server, tmp_path):
    (tmp_path / "x.part").write_bytes(b"another version")
    download(server.url, tmp_path / "x", sha256=None, timeouts=QUICK)
    assert (tmp_path / "x").read_bytes() == BODY
    assert server.requests == [None]


def interrupted(server, path):
    """Leave what a run leaves that is cut off for good."""
    server.cut_after, server.ranges = 400_000, False
    with pytest.raises(OSError, match="the connection ends after"):
        download(server.url, path, sha256=None, timeouts=QUICK)
    server.cut_after, server.ranges = None, True
    server.requests.clear()


def test_part_without_a_hash_is_continued_where_the_server_names_its_version(server, tmp_path):
    server.etag = '"v1"'
    interrupted(server, tmp_path / "x")
    download(server.url, tmp_path / "x", sha256=None, timeouts=QUICK)
    assert (tmp_path / "x").read_bytes() == BODY
    assert server.requests == ["bytes=400000-"]
    assert files_in(tmp_path) == ["x"]


def test_part_of_an_older_version_is_replaced(server, tmp_path):
    server.etag = '"v1"'
    interrupted(server, tmp_path / "x")
    server.etag, server.body = '"v2"', BODY[::-1]
    download(server.url, tmp_path / "x", sha256=None, timeouts=QUICK)
    assert (tmp_path / "x").read_bytes() == BODY[::-1]


def test_weak_version_is_no_promise(server, tmp_path):
    server.etag = 'W/"v1"'
    interrupted(server, tmp_path / "x")
    download(server.url, tmp_path / "x", sha256=None, timeouts=QUICK)
    assert server.requests == [None]


def test_part_of_another_file_is_thrown_away(server, tmp_path):
    (tmp_path / "x.part").write_bytes(b"another version")
    download(server.url, tmp_path / "x", sha256=SHA256, timeouts=QUICK)
    assert (tmp_path / "x").read_bytes() == BODY
    assert server.requests == ["bytes=15-", None]


@pytest.mark.parametrize("extra", [b"", b"and more"])
def test_part_that_is_already_as_long_as_the_file_or_longer_is_settled(extra, server, tmp_path):
    (tmp_path / "x.part").write_bytes(BODY + extra)
    download(server.url, tmp_path / "x", sha256=SHA256, timeouts=QUICK)
    assert (tmp_path / "x").read_bytes() == BODY


def test_content_length_that_promises_too_much_is_found_out(server):
    server.promised_more = 77
    server.ranges = False
    with pytest.raises(DownloadError, match="ends after 1048576 of 1048653 bytes"):
        fetch(entry_at(server.url), timeouts=QUICK)


def test_content_length_that_promises_too_little_is_found_out_by_the_hash(server, home):
    server.promised_more = -1000
    with pytest.raises(DownloadError, match="the server sent other bytes"):
        fetch(entry_at(server.url), timeouts=QUICK)
    assert files_in(home) == []


def test_wrong_bytes_are_refused_and_removed(server, home):
    server.body = b"x" * 1000
    found = hashlib.sha256(server.body).hexdigest()[:8]
    message = rf"other bytes: SHA-256 {found}\.\.\., wanted {SHA256[:8]}\.\.\."
    with pytest.raises(DownloadError, match=message) as error:
        fetch(entry_at(server.url), timeouts=QUICK)
    assert "\n" not in str(error.value)
    assert files_in(home) == []


def test_web_page_in_place_of_a_file_is_refused(server, home):
    server.body, server.content_type = b"<html>log in</html>", "text/html; charset=utf-8"
    with pytest.raises(DownloadError, match="sent a web page, not the file"):
        fetch(entry_at(server.url, sha256=None), timeouts=QUICK)
    assert files_in(home) == []


def test_missing_file_is_reported_at_once(server):
    server.status = 404
    with pytest.raises(DownloadError, match="the server answers 404 Not Found"):
        fetch(entry_at(server.url), timeouts=QUICK)
    assert len(server.requests) == 1


def test_mirror_is_tried_second(server):
    entry = dataclasses.replace(entry_at(_nobody_listens()), mirror=server.url)
    assert fetch(entry, timeouts=QUICK).read_bytes() == BODY


def test_offline_fails_with_one_line_that_says_what_to_put_where(home):
    url = _nobody_listens()
    with pytest.raises(DownloadError) as error:
        fetch(entry_at(url))
    assert str(error.value) == (
        "tiny-k400 is not on this machine and cannot be downloaded (Connection refused); "
        f"put model-7615ae03.pth from {url} into {home}, "
        "or use --model camera-motion, which is always there"
    )


def put_there_by_hand(entry, weights, config, monkeypatch, *, known_hash):
    """Save `weights` as the entry's file, and have its hash published if `known_hash`."""
    cached_file(entry).parent.mkdir()
    torch.save(WRITERS[entry.layout](weights, config), cached_file(entry))
    sha256 = hashlib.sha256(cached_file(entry).read_bytes()).hexdigest()[:8] if known_hash else None
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
        (True, "verified, its SHA-256 begins with"),
        (False, "recognised by its file name, no hash is published"),
    ],
)
def test_file_put_there_by_hand_is_used(known_hash, identity, small_tiny, monkeypatch):
    entry = ENTRIES["tiny-k400"]
    put_there_by_hand(entry, zeros(small_tiny), small_tiny, monkeypatch, known_hash=known_hash)
    checkpoint = Checkpoint.load("tiny-k400")
    assert (checkpoint.name, checkpoint.licence, checkpoint.config) == (
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
        path = folder / cached_file(ENTRIES["tiny-k400"]).name
        torch.save(WRITERS["torchvision"](zeros(config), config), path)
        with pytest.raises(ValueError, match=rf"has the name of tiny-k400, but .* wanted 7615ae03.*; {cure}"):
            Checkpoint.load("tiny-k400" if folder == home else path)


def test_damaged_file_in_the_cache_says_how_to_get_it_again(home):
    home.mkdir()
    cached_file(ENTRIES["base-ssv2"]).write_bytes(b"PK\x03\x04" + bytes(64))
    with pytest.raises(ValueError, match=r"damaged or no PyTorch file .*; remove it to download it again"):
        Checkpoint.load("base-ssv2")


def test_file_that_is_another_model_than_its_name_says_is_refused(weights, config, monkeypatch):
    put_there_by_hand(ENTRIES["tiny-k400"], weights, config, monkeypatch, known_hash=False)
    with pytest.raises(
        ValueError, match=r"has the name of tiny-k400, a tiny model, but holds another \(embed_dim 32"
    ):
        Checkpoint.load("tiny-k400")


def test_silent_address_is_given_up_within_the_time_for_an_answer(server):
    server.delay = 5.0
    with pytest.raises(DownloadError, match=r"no answer within 0\.2 s"):
        fetch(entry_at(server.url), timeouts=Timeouts(answer=0.2))


def test_proxy_of_the_environment_is_used(server, monkeypatch):
    monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setenv("no_proxy", "")
    url = "http://weights.invalid/model-7615ae03.pth"
    assert fetch(entry_at(url), timeouts=QUICK).read_bytes() == BODY


def test_concurrent_processes_download_once(server, home):
    server.delay = 0.3
    context = multiprocessing.get_context("spawn")
    entry = entry_at(server.url)
    processes = [context.Process(target=fetch, args=(entry,)) for _ in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0] * 4
    assert len(server.requests) == 1
    assert cached_file(entry).read_bytes() == BODY


def test_folder_that_cannot_be_written_is_named(server, home):
    home.write_text("a file where the folder should be")
    with pytest.raises(DownloadError, match="File exists"):
        fetch(entry_at(server.url), timeouts=QUICK)


def test_cache_folder_is_in_the_home_unless_said_otherwise(home, monkeypatch):
    assert cache_folder() == home
    monkeypatch.delenv("VIDEOSWIN_HOME")
    assert cache_folder() == type(home)(os.path.expanduser("~")) / ".cache" / "videoswin"


def _nobody_listens():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{free.getsockname()[1]}/model-7615ae03.pth"
