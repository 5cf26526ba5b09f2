"""Trainings and scorings on cores that other processes want, too."""

import ast
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from mdel_assets.machine import shared_cores
from mdel_assets.machine.shared_cores import (
    RESERVE_NAME,
    USERS_SETTINGS,
    WATCH_NAME,
    Crowd,
    ThreadsInReserve,
    seconds_waited,
    sharing_cores,
)
from mdel_assets_tests.waiting import wait_until

PACKAGE = Path(shared_cores.__file__).parents[1]
LINUX_ONLY = pytest.mark.skipif(sys.platform != "linux", reason="Linux tells how threads wait")


@pytest.fixture
def two_threads(monkeypatch):
    """torch with two threads, and no setting of a user's."""
    import torch

    for name in USERS_SETTINGS:
        monkeypatch.delenv(name, raising=False)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def is_watching():
    return WATCH_NAME in [thread.name for thread in threading.enumerate()]


def system_threads():
    return {task.name for task in Path("/proc/self/task").iterdir()}


@LINUX_ONLY
def test_cores_are_watched_inside_and_not_after(two_threads):
    with sharing_cores():
        assert is_watching()
        with sharing_cores():
            assert [t.name for t in threading.enumerate()].count(WATCH_NAME) == 1
        assert is_watching()
    assert not is_watching()


@pytest.mark.parametrize("name", USERS_SETTINGS)
def test_a_users_own_settings_win(two_threads, monkeypatch, name):
    monkeypatch.setenv(name, "1")
    with sharing_cores():
        assert not is_watching()


def test_one_thread_has_nothing_to_wait_for(two_threads):
    import torch

    torch.set_num_threads(1)
    with sharing_cores():
        assert not is_watching()


def test_the_number_of_threads_stays_the_users(two_threads):
    import torch

    reserve = ThreadsInReserve()
    assert torch.get_num_threads() == 2
    reserve.end()
    assert torch.get_num_threads() == 2


@LINUX_ONLY
def test_a_reserve_makes_more_threads_than_cores_and_takes_them_back(two_threads):
    import torch

    torch.exp(torch.ones(200_000))
    before = system_threads()
    reserve = ThreadsInReserve()
    own = system_threads() - before
    # One of them holds the reserve and is a thread of its team; torch has two more.
    assert len(own) - 1 + 2 > len(os.sched_getaffinity(0))
    reserve.end()
    wait_until(lambda: not own & system_threads(), seconds=10, every=0.01)


def test_a_training_is_the_same_to_the_bit_with_a_reserve(two_threads):
    import torch

    def train():
        torch.manual_seed(0)
        model = torch.nn.Sequential(torch.nn.Linear(300, 500), torch.nn.Linear(500, 300))
        optimizer = torch.optim.AdamW(model.parameters())
        for _ in range(5):
            optimizer.zero_grad()
            model(torch.randn(400, 300)).square().sum().backward()
            optimizer.step()
        return [parameter.detach().clone() for parameter in model.parameters()]

    alone = train()
    reserve = ThreadsInReserve()
    crowded = train()
    reserve.end()
    assert all(map(torch.equal, alone, crowded))


@LINUX_ONLY
def test_how_long_threads_wait_is_told_for_each():
    waited = seconds_waited()
    assert str(threading.get_native_id()) in waited
    assert all(seconds >= 0 for seconds in waited.values())


def test_others_want_the_cores_while_threads_wait():
    crowd = Crowd({"1": 5.0, "2": 1.0}, worked=0.0, now=100.0)
    # Waits of 0.03 + 0.02 s in 0.5 s: a tenth, which is neither much nor little.
    assert not crowd.look({"1": 5.03, "2": 1.02}, worked=1.0, now=100.5)
    # 0.06 + 0.04 s in 0.5 s: a fifth. A thread that is new counts from the next look on.
    assert crowd.look({"1": 5.09, "2": 1.06, "3": 9.0}, worked=2.0, now=101.0)
    # A tenth is not little enough to say that they are gone, however long.
    for look in range(1, 21):
        waited = {"1": 5.09 + 0.05 * look, "3": 9.0}
        assert crowd.look(waited, worked=2.0 + look, now=101.0 + 0.5 * look)
    # Nothing at four looks running is.
    waited = {"1": 6.09, "3": 9.0}
    answers = [crowd.look(waited, worked=22.0 + n, now=111.0 + 0.5 * n) for n in range(1, 5)]
    assert answers == [True, True, True, False]


def test_a_wait_between_quiet_looks_begins_the_count_anew():
    crowd = Crowd({"1": 0.0}, worked=0.0, now=0.0)
    assert crowd.look({"1": 0.5}, worked=1.0, now=1.0)
    for n in range(2, 5):
        assert crowd.look({"1": 0.5}, worked=float(n), now=float(n))
    assert crowd.look({"1": 0.6}, worked=5.0, now=5.0)
    answers = [crowd.look({"1": 0.6}, worked=float(n), now=float(n)) for n in range(6, 10)]
    assert answers == [True, True, True, False]


def test_a_process_that_does_not_work_tells_nothing():
    crowd = Crowd({"1": 0.0}, worked=0.0, now=0.0)
    assert crowd.look({"1": 0.5}, worked=1.0, now=1.0)
    for n in range(2, 50):
        assert crowd.look({"1": 0.5}, worked=1.0, now=float(n))


@LINUX_ONLY
def test_trainings_and_scorings_share_their_cores(two_threads, make_model, tmp_path):
    import numpy as np
    from transformers import TrainerCallback

    from mdel_assets.experiment.fields import Optimization
    from mdel_assets.scoring.log_probabilities import Scorer
    from mdel_assets.training.model_files import load_model
    from mdel_assets.training.optimize import optimize

    seen = []

    class See(TrainerCallback):
        def on_step_end(self, *_, **__):
            seen.append(is_watching())

    folder = make_model()
    settings = Optimization(block_size=16, batch_size=2, max_steps=2, logging_steps=1)
    blocks = np.ones((4, 16), np.int32)
    model = load_model(folder, dtype="float32")
    optimize(model, blocks, settings, work_folder=tmp_path, callbacks=[See()])
    assert seen == [True, True]
    assert not is_watching()
    with Scorer([load_model(folder, dtype="float32")]):
        assert is_watching()
    assert not is_watching()


def callers(*names):
    """The modules of the package that call a function or method of one of these names."""
    found = set()
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Call):
                called = node.func
                name = getattr(called, "attr", None) or getattr(called, "id", None)
                if name in names:
                    found.add(str(path.relative_to(PACKAGE)))
    return found


def test_every_way_to_train_or_score_goes_through_those_two():
    """So `mdel run`, the daemon, workers, SLURM and Ray need no setting of their own."""
    written = {"generation/continuation.py", "generation/samples.py", "serving/server.py"}
    other = {"merging/mixtures/domain_gates.py", *written}
    trained_or_scored = {"training/optimize.py", "scoring/log_probabilities.py"}
    assert callers("sharing_cores") == trained_or_scored | other
    assert callers("train_from", "LayerTrainer") == {"training/optimize.py"}
    assert callers("backward") <= {"training/fused_loss.py", "training/trainer.py"}
    assert callers("SharedTrunk", "make_trunk", "_score") <= {
        "scoring/log_probabilities.py",
        "scoring/shared_trunk.py",
        "merging/candidates.py",
    }


_COMPUTE = f"""
import threading, torch
from mdel_assets.machine.shared_cores import sharing_cores
a = torch.ones(100_000)
with sharing_cores():
    print("began", flush=True)
    while "{RESERVE_NAME}" not in [thread.name for thread in threading.enumerate()]:
        torch.exp(a)
print("shared", flush=True)
"""


@LINUX_ONLY
@pytest.mark.slow
def test_busy_processes_are_noticed():
    cores = sorted(os.sched_getaffinity(0))[:2]
    if len(cores) < 2:
        pytest.skip("one core")
    unset = ("OMP_", "GOMP_")
    environment = {k: v for k, v in os.environ.items() if not k.startswith(unset)}

    def start(code, **options):
        command = ["taskset", "-c", ",".join(map(str, cores)), sys.executable, "-c", code]
        return subprocess.Popen(command, env=environment, **options)

    busy = [start("while True: pass") for _ in cores]
    computing = start(_COMPUTE, stdout=subprocess.PIPE, text=True)
    try:
        assert computing.communicate(timeout=120)[0].split() == ["began", "shared"]
    finally:
        for process in (*busy, computing):
            process.kill()
            process.wait()
