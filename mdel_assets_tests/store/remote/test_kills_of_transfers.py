"""Pushes and fetches that are killed at random moments: nothing is lost, nothing is half-there."""

import json
import os
import random
import signal
import subprocess
import sys
import threading

import pytest
import xxhash

from mdel_assets.store.artifacts import MAKING_NAME
from mdel_assets.store.records import Record
from mdel_assets_tests.store.remote.artifacts_in_store import KEYS, SIZES, artifact_in, content_of

# Forty take a minute: MDEL_TEST_KILLS=40 pytest ...test_kills_of_transfers.py
NUM_KILLS = int(os.environ.get("MDEL_TEST_KILLS", "6"))


def start(folder):
    command = [sys.executable, "-m", "mdel_assets_tests.store.remote.artifacts_in_store"]
    return subprocess.Popen(
        [*command, str(folder / "one"), str(folder / "other")], stderr=subprocess.PIPE, text=True
    )


def entries(s3):
    """Return the records in the store by name, read from the server itself."""
    names = s3.names("shared/experiments/")
    return {name: Record(**json.loads(s3.content(name))["record"]) for name in names}


def require_whole(s3, folder):
    """Require that all that is there is whole, in the store and in both homes."""
    files = set(s3.names("shared/files/"))
    for record in entries(s3).values():
        for file in record.files.values():
            assert f"shared/files/xxh3-{file['xxh3']}" in files
    for home in ("one", "other"):
        for path in (folder / home / "tried").glob("models/[!.]*"):
            record = Record.parse((path / "record.json").read_text())
            assert {name: (path / name).read_bytes() for name in record.files} == {
                name: content_of(path.name, name) for name in SIZES
            }


class Killing:
    """Runs the program, and kills it as its request of a random number arrives, if there is one."""

    def __init__(self, folder, proxy, *, at):
        self.left, self.reached, self.killed = at, threading.Event(), threading.Event()
        self.lock = threading.Lock()
        self.process = start(folder)
        proxy.before = self.count
        watch = threading.Thread(target=self.watch)
        watch.start()
        self.reached.wait()
        self.was_killed = self.process.poll() is None
        if self.was_killed:
            self.process.send_signal(signal.SIGKILL)
        watch.join()
        self.killed.set()
        self.told = self.process.stderr.read()
        self.process.stderr.close()
        proxy.wait_until_idle()

    def count(self, method, path):
        """Hold up the request at which the program is killed."""
        with self.lock:
            self.left -= 1
            is_it = self.left == 0
        if is_it:
            self.reached.set()
            self.killed.wait()

    def watch(self):
        """Wait for the program to end, killed or not."""
        self.process.wait()
        self.reached.set()


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_killed_pushes_and_fetches_lose_nothing_and_leave_nothing_half_there(s3, proxy, tmp_path):
    draw, num_kills, num_rounds = random.Random(0), 0, 0
    while num_kills < NUM_KILLS:
        folder, seen = tmp_path / f"round-{num_rounds}", set()
        while True:
            run = Killing(folder, proxy, at=draw.randint(1, 24))
            require_whole(s3, folder)
            there = entries(s3).keys()
            assert seen <= there
            seen = set(there)
            if not run.was_killed:
                assert run.process.returncode == 0, run.told
                break
            num_kills += 1
        require_all(s3, folder)
        num_rounds += 1
        for name in s3.names():
            s3.delete(name)


def require_all(s3, folder):
    """Require that all artifacts are in the store and in both homes, and nothing else is."""
    assert len(entries(s3)) == len(KEYS)
    for home in ("one", "other"):
        for key in KEYS:
            artifact = artifact_in(folder / home, key)
            record = artifact.require()
            assert artifact.damage(record, read_all=True) is None
            assert json.loads((artifact.folder / MAKING_NAME).read_text()) == {"pace": key}
        staged = [path.name for path in (folder / home / "tried" / "models").glob(".*")]
        assert [name for name in staged if ".tmp-" in name] == []
        assert [*(folder / home / "cache").glob("store-*/partial/*")] == []
    # Two of the artifacts share their largest file.
    objects = s3.names("shared/files/")
    assert len(objects) == len(SIZES) * len(KEYS) - 1
    for name in objects:
        assert name.endswith(xxhash.xxh3_128_hexdigest(s3.content(name)))
