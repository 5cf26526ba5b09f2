"""Runs that wait for a pool: behind one that lives until they are told to end, and a dead one."""

import shutil
import signal
import time

import psutil
import pytest

from mdel_assets.defs.instance import open_instance
from mdel_assets.home import MdelHome
from mdel_assets_tests import warm_python
from mdel_assets_tests.conftest import PICO, pico_experiment
from mdel_assets_tests.defs.running_dagster import environment
from mdel_assets_tests.waiting import wait_until

EXPERT = ("-m", "dagster", "asset", "materialize", "-m", "mdel_assets.definitions")
LONGER = PICO["training"] | {"num_tokens": 32 * 4 * 50_000, "save_steps": 20}


@pytest.mark.slow
@pytest.mark.parametrize("number", ["SIGTERM", "SIGINT"])
def test_a_run_waits_aloud_ends_when_told_and_passes_the_dead(branched, corpus, tmp_path, number):
    shutil.copytree(branched[1].root, tmp_path / "home")
    home = MdelHome(tmp_path / "home")
    open_instance(home, "pico").dispose()
    experiment = pico_experiment(corpus, training=LONGER)
    options = {"env": environment(experiment, home, tmp_path), "cwd": tmp_path}

    def train(domain):
        selection = ["--select", "expert_model", "--partition", domain]
        return warm_python.start([*EXPERT, *selection], **options)

    def newest_checkpoint():
        found = (home.root / "pico" / "work").glob("expert_model-github-*/checkpoint-*")
        return max((int(path.name.rpartition("-")[2]) for path in found), default=0)

    with train("github") as holding:
        wait_until(newest_checkpoint, every=0.02)
        with train("arxiv") as waiting:
            waiting.read_until("waiting for the pool 'gpu', which run ")
            worked = sum(psutil.Process(waiting.pid).cpu_times()[:2])
            time.sleep(2)
            assert sum(psutil.Process(waiting.pid).cpu_times()[:2]) - worked < 1
            assert holding.poll() is None
            waiting.send_signal(signal.Signals[number])
            assert waiting.wait(timeout=20) != 0
        holding.kill()
    left = newest_checkpoint()
    with train("github") as again:
        again.read_until("is marked as failed and its pool slots are freed: its process")
        wait_until(lambda: newest_checkpoint() > left)
        again.kill()


@pytest.mark.slow
@pytest.mark.in_use
def test_the_same_expert_asked_for_twice_at_once_is_trained_once(branched, corpus, tmp_path):
    """Two commands without an instance, so without pools: the second finds the expert made."""
    shutil.copytree(branched[1].root, tmp_path / "home")
    home = MdelHome(tmp_path / "home")
    training = LONGER | {"num_tokens": 32 * 4 * 100}
    variables = environment(pico_experiment(corpus, training=training), home, tmp_path)
    del variables["DAGSTER_HOME"]
    expert = (*EXPERT, "--select", "expert_model", "--partition", "github")
    with warm_python.start(expert, env=variables, cwd=tmp_path) as first:
        work = home.root / "pico" / "work"
        wait_until(lambda: list(work.glob("expert_model-github-*/checkpoint-*")), every=0.02)
        first.send_signal(signal.SIGSTOP)
        with warm_python.start(expert, env=variables, cwd=tmp_path) as second:
            second.read_until(f"waiting for expert_model 'github', which process {first.pid} of")
            first.send_signal(signal.SIGCONT)
            assert first.wait(timeout=60) == 0
            made = home.root / "pico" / "models" / "experts" / "github" / "record.json"
            inode = made.stat().st_ino
            assert second.wait(timeout=60) == 0
    assert made.stat().st_ino == inode
    assert not list(work.glob("expert_model-*"))
