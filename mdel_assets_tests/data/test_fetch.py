"""Fetching a shard, from a disk and from a server that misbehaves."""

import hashlib
import http.server
import threading

import pytest

from mdel_assets.data import fetch
from mdel_assets.data.fetch import fetch_shard
from mdel_assets.errors import FetchError

CONTENT = bytes(range(256)) * 4000


class Server(http.server.ThreadingHTTPServer):
    """Serves `CONTENT`, cutting or refusing as many answers as it is told to."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.cuts = 0
        self.refusals = []
        self.ranges = []
        self.etag = '"one"'

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_port}/01.jsonl.zst"


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        wanted = self.headers.get("Range")
        self.server.ranges.append(wanted)
        if self.server.refusals:
            self.send_error(self.server.refusals.pop(0))
            return
        start = 0
        if wanted and self.headers.get("If-Range") == self.server.etag:
            start = int(wanted.removeprefix("bytes=").removesuffix("-"))
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(CONTENT) - start))
        self.send_header("ETag", self.server.etag)
        self.end_headers()
        body = CONTENT[start:]
        if self.server.cuts:
            self.server.cuts -= 1
            body = body[: len(body) // 2]
        self.wfile.write(body)

    def log_message(self, *_):
        pass


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setattr(fetch, "_FIRST_WAIT_SECONDS", 0.001)
    with Server() as found:
        thread = threading.Thread(target=found.serve_forever)
        thread.start()
        yield found
        found.shutdown()
        thread.join()


@pytest.fixture
def fetching(tmp_path):
    (tmp_path / "out").mkdir()
    return {"folder": tmp_path / "out", "partial_folder": tmp_path / "partial"}


def test_a_cut_download_goes_on_where_it_stopped(server, fetching):
    server.cuts = 2
    fetched = fetch_shard(server.url, **fetching)
    assert fetched.path.read_bytes() == CONTENT
    assert fetched.sha256 == hashlib.sha256(CONTENT).hexdigest()
    assert server.ranges == [None, "bytes=512000-", "bytes=768000-"]
    assert not fetching["partial_folder"].exists()


def test_another_process_goes_on_where_one_gave_up(server, fetching):
    server.cuts = 6
    with pytest.raises(FetchError, match="run the same command again"):
        fetch_shard(server.url, **fetching)
    assert list(fetching["folder"].iterdir()) == []
    assert fetch_shard(server.url, **fetching).path.read_bytes() == CONTENT
    assert server.ranges[-1] == "bytes=1008000-"


def test_a_file_that_changed_meanwhile_is_fetched_anew(server, fetching):
    server.cuts = 6
    with pytest.raises(FetchError):
        fetch_shard(server.url, **fetching)
    server.etag = '"two"'
    assert fetch_shard(server.url, **fetching).path.read_bytes() == CONTENT


def test_a_busy_server_is_asked_again_and_a_missing_file_is_not(server, fetching):
    server.refusals = [503, 429, 500]
    assert fetch_shard(server.url, **fetching).size_bytes == len(CONTENT)
    server.refusals = [404]
    asked = len(server.ranges)
    with pytest.raises(FetchError, match="answered 404"):
        fetch_shard(server.url, **fetching)
    assert len(server.ranges) == asked + 1


def test_a_wrong_sha256_is_refused_with_both_values(server, fetching):
    expected = "0" * 64
    with pytest.raises(FetchError, match=rf"{hashlib.sha256(CONTENT).hexdigest()}.*{expected}"):
        fetch_shard(server.url, **fetching, sha256=expected)


def test_a_local_file_arrives_with_its_sha256(tmp_path, fetching):
    (tmp_path / "a.jsonl").write_bytes(CONTENT)
    fetched = fetch_shard(str(tmp_path / "a.jsonl"), **fetching)
    assert fetched.path.read_bytes() == CONTENT
    assert fetched.path.parent == fetching["folder"]


def test_missing_and_empty_files_and_odd_addresses_are_refused(tmp_path, fetching):
    with pytest.raises(FetchError, match="is not a file"):
        fetch_shard(str(tmp_path / "none.zst"), **fetching)
    (tmp_path / "empty.zst").touch()
    with pytest.raises(FetchError, match="is empty"):
        fetch_shard(str(tmp_path / "empty.zst"), **fetching)
    with pytest.raises(FetchError, match="hf://datasets/OWNER/NAME"):
        fetch_shard("hf://somewhere", **fetching)
    with pytest.raises(FetchError, match=r"there are train\.jsonl\.zst"):
        fetch_shard("sample://other.jsonl.zst", **fetching)
