"""Fetching a shard, from a disk and from a server that misbehaves."""

import hashlib
import http.server
import os
import re
import subprocess
import sys
import threading

import pytest

from mdel_assets.data import fetch
from mdel_assets.data.fetch import fetch_shard
from mdel_assets.errors import FetchError
from mdel_assets.hub.retries import RetryPolicy
from mdel_assets.machine import progress

CONTENT = bytes(range(256)) * 4000
COMMIT = "c" * 40
SHA256 = hashlib.sha256(CONTENT).hexdigest()


class Server(http.server.ThreadingHTTPServer):
    """Serves `CONTENT`, cutting or refusing as many answers as it is told to."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.cuts = 0
        self.refusals = []
        self.ranges = []
        self.paths = []
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
        self._say_repository()
        self.end_headers()
        body = CONTENT[start:]
        if self.server.cuts:
            self.server.cuts -= 1
            body = body[: len(body) // 2]
        self.wfile.write(body)

    def do_HEAD(self):
        """Answer as the Hub does about one of its files."""
        self.send_response(200)
        self.send_header("Content-Length", str(len(CONTENT)))
        self.send_header("ETag", self.server.etag)
        self._say_repository()
        self.end_headers()

    def _say_repository(self):
        self.server.paths.append(self.path)
        self.send_header("X-Repo-Commit", COMMIT)

    def log_message(self, *_):
        pass


@pytest.fixture
def server(monkeypatch):
    at_once = RetryPolicy(num_attempts=6, first_wait_seconds=0.001)
    monkeypatch.setattr(fetch, "_RETRIES", at_once)
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
    with pytest.raises(FetchError, match=r"refused \(404\)"):
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
    with pytest.raises(FetchError, match=r"Known: train\.jsonl\.zst"):
        fetch_shard("sample://other.jsonl.zst", **fetching)


def test_a_download_tells_its_rate_and_the_time_left(server, fetching, monkeypatch, caplog):
    monkeypatch.setattr(progress, "_SECONDS_BETWEEN", 0.0)
    with caplog.at_level("INFO", logger="mdel_assets"):
        fetch_shard(server.url, **fetching)
    lines = [record.getMessage() for record in caplog.records]
    assert re.fullmatch(r"01.jsonl.zst: \d MB fetched, \S+ MB/s, \d+ s left", lines[0])
    assert lines[-1].endswith(", 0 s left")


def test_an_etag_that_is_a_sha256_is_held_against_the_file(server, fetching):
    server.etag = f'"{SHA256}"'
    assert fetch_shard(server.url, **fetching).sha256 == SHA256
    server.etag = f'"{"0" * 64}"'
    with pytest.raises(FetchError, match=r"expected 0{64} \(the server says\)"):
        fetch_shard(server.url, **fetching)


HUB = """
import sys
from pathlib import Path
from mdel_assets.data.fetch import fetch_shard
from mdel_assets.errors import FetchError
folder = Path(sys.argv[1])
folder.mkdir(exist_ok=True)
try:
    found = fetch_shard("hf://datasets/group/corpus@main/train/01.jsonl.zst", folder=folder,
                        partial_folder=folder / "partial")
    print(found.source_signature, found.sha256, found.path.stat().st_size)
except FetchError as error:
    print(error)
"""


@pytest.mark.parametrize("is_true", [True, False])
def test_a_file_of_the_hub_is_fetched_and_held_against_the_sha256_it_tells(
    server, tmp_path, is_true
):
    server.etag = f'"{SHA256 if is_true else "0" * 64}"'
    environment = os.environ | {
        "HF_ENDPOINT": f"http://127.0.0.1:{server.server_port}",
        "HF_HOME": str(tmp_path / "hub"),
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_OFFLINE": "0",
    }
    command = [sys.executable, "-c", HUB, str(tmp_path / "out")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert "/datasets/group/corpus/resolve/main/train/01.jsonl.zst" in server.paths
    if is_true:
        assert done.stdout.split() == [COMMIT, SHA256, str(len(CONTENT))]
    else:
        assert "(the server says)" in done.stdout


def test_a_folder_is_linked_file_by_file_and_its_listing_digested(tmp_path, fetching):
    (tmp_path / "corpus" / "b").mkdir(parents=True)
    (tmp_path / "corpus" / "a").mkdir()
    (tmp_path / "corpus" / "b" / "1.txt").write_text("one")
    (tmp_path / "corpus" / "a" / "2.txt").write_text("two!")
    fetched = fetch_shard(str(tmp_path / "corpus"), is_folder=True, **fetching)
    listing = "".join(
        f"{hashlib.sha256(text.encode()).hexdigest()}  {name}\n"
        for name, text in (("a/2.txt", "two!"), ("b/1.txt", "one"))
    )
    assert fetched.sha256 == hashlib.sha256(listing.encode()).hexdigest()
    assert fetched.size_bytes == 7
    assert (fetched.path / "b" / "1.txt").read_text() == "one"


def test_a_folder_without_folders_and_a_remote_one_are_refused(tmp_path, fetching):
    (tmp_path / "corpus").mkdir()
    (tmp_path / "corpus" / "loose.txt").write_text("x")
    with pytest.raises(FetchError, match=r"expected .*/DOMAIN/FILE"):
        fetch_shard(str(tmp_path / "corpus"), is_folder=True, **fetching)
    with pytest.raises(FetchError, match="not a local folder"):
        fetch_shard("hf://datasets/a/b/c", is_folder=True, **fetching)
