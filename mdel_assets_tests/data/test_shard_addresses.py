"""A remote shard under another address is another source; a file that moved is the same."""

import functools
import http.server
import shutil
import threading

import pytest

from mdel_assets.line.making import make_one
from mdel_assets_tests.conftest import pico_experiment

pytestmark = pytest.mark.in_use


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


@pytest.fixture
def address(corpus, tmp_path):
    """The address of a server that has one shard's name under two folders, with different text."""
    for name, shard in (("a", "00"), ("b", "01")):
        (tmp_path / "served" / name).mkdir(parents=True)
        shutil.copy(corpus / f"{shard}.jsonl.zst", tmp_path / "served" / name / "00.jsonl.zst")
    handler = functools.partial(Quiet, directory=str(tmp_path / "served"))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def lineage_of(home, corpus, location, **source):
    return home.lineage(pico_experiment(corpus, source={"train": [location]} | source))


def test_a_shard_at_another_address_is_fetched_anew(address, corpus, home):
    first = lineage_of(home, corpus, f"{address}/a/00.jsonl.zst")
    before = make_one(first, "raw_pile_shard", "00")
    again = lineage_of(home, corpus, f"{address}/a/00.jsonl.zst")
    assert again.current("raw_pile_shard", "00") is not None
    moved = lineage_of(home, corpus, f"{address}/b/00.jsonl.zst")
    assert moved.current("raw_pile_shard", "00") is None
    after = make_one(moved, "raw_pile_shard", "00")
    assert after.config["sha256"] != before.config["sha256"]
    assert moved.current("raw_pile_shard", "00") is not None


def test_a_mirror_with_the_sha256_that_is_wanted_is_not_asked(address, corpus, home):
    first = lineage_of(home, corpus, f"{address}/a/00.jsonl.zst")
    sha256 = make_one(first, "raw_pile_shard", "00").config["sha256"]
    mirror = lineage_of(home, corpus, f"{address}/nowhere/00.jsonl.zst", sha256={"00": sha256})
    assert mirror.current("raw_pile_shard", "00") is not None


def test_a_local_file_that_moved_is_the_same(corpus, home, tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    here = tmp_path / "a" / "00.jsonl.zst"
    shutil.copy2(corpus / "00.jsonl.zst", here)
    make_one(lineage_of(home, corpus, str(here)), "raw_pile_shard", "00")
    there = here.rename(tmp_path / "b" / here.name)
    assert lineage_of(home, corpus, str(there)).current("raw_pile_shard", "00") is not None
