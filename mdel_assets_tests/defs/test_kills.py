"""Lines that are killed at random moments, each gone on with by the same command alone."""

import contextlib
import os
import random
import shutil
import signal
import time

import pytest
import xxhash

from mdel_assets.home import MdelHome
from mdel_assets.store.artifacts import MAKING_NAME
from mdel_assets_tests import warm_python
from mdel_assets_tests.conftest import pico_experiment
from mdel_assets_tests.defs.running_dagster import environment

# Sixty take six minutes: MDEL_TEST_KILLS=60 pytest mdel_assets_tests/defs/test_kills.py
NUM_KILLS = int(os.environ.get("MDEL_TEST_KILLS", "12"))
SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
# A line that nothing holds up is through long before.
_LONGEST_SECONDS = 600.0


class Line:
    """One line in a home of its own, begun by ``mdel run`` as often as it takes."""

    def __init__(self, experiment, folder):
        self.home = MdelHome(folder / "home")
        self.lineage = self.home.lineage(experiment)
        self.options = {"env": environment(experiment, self.home, folder), "cwd": folder}
        self.printed = ""

    def begin(self):
        process = warm_python.start([*warm_python.MDEL, "run"], **self.options)
        process.read_until("Experiment ")
        return process

    def finish(self):
        """Go on to the end; return the seconds after the beginning."""
        with self.begin() as process:
            begun = time.monotonic()
            self.printed, _ = process.communicate(timeout=_LONGEST_SECONDS)
        assert process.returncode == 0, self.printed[-5000:]
        return time.monotonic() - begun

    def digests(self):
        """Return the digest of every file of every artifact, by its path, records among them."""
        lineage, found = self.lineage, {}
        for kind in lineage.kinds():
            for key in lineage.keys(kind):
                artifact = lineage.artifact(kind, key)
                assert lineage.current(kind, key), (kind, key)
                for path in artifact.folder.rglob("*"):
                    if path.is_file() and path.name != MAKING_NAME:
                        name = str(path.relative_to(self.home.root))
                        found[name] = xxhash.xxh3_64_hexdigest(path.read_bytes())
        return found


@pytest.mark.in_use
@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_lines_that_are_killed_at_random_moments_all_end_and_in_the_same_bytes(corpus, tmp_path):
    """SIGKILL, SIGTERM and SIGINT in turn; no doctor in between, nobody frees anything by hand."""
    experiment = pico_experiment(corpus)
    (tmp_path / "whole").mkdir()
    whole = Line(experiment, tmp_path / "whole")
    seconds = whole.finish()
    wanted = whole.digests()
    draw = random.Random(0)
    num_kills = num_lines = 0
    while num_kills < NUM_KILLS:
        folder = tmp_path / f"line-{num_lines}"
        folder.mkdir()
        line = Line(experiment, folder)
        # As many kills as bring a line from its beginning to its end.
        for _ in range(6):
            with line.begin() as process:
                with contextlib.suppress(TimeoutError):
                    process.wait(timeout=draw.uniform(0.0, seconds / 4))
                number = SIGNALS[num_kills % len(SIGNALS)]
                has_ended = process.poll() is not None
                process.send_signal(number)
                printed, _ = process.communicate(timeout=60)
            if has_ended:
                assert process.returncode == 0, printed
                break
            num_kills += 1
        line.finish()
        num_lines += 1
        assert line.digests() == wanted
        assert not [path for path in line.home.root.rglob("*.tmp-*") if path.is_dir()]
        shutil.rmtree(folder)
