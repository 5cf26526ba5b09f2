"""Work in processes of its own: what comes back, what is logged, and what signals do."""

import logging
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from mdel_assets.errors import TrainingError, TrainingInterruptedError, WorkerError
from mdel_assets.machine.side_by_side import Work, num_at_once, run_side_by_side

_log = logging.getLogger("mdel_assets.test")


def give(value):
    """Return ``value`` and the process that did."""
    import torch

    _log.info("giving %s", value)
    return value, os.getpid(), torch.get_num_threads()


def refuse(message):
    raise TrainingError(message)


def fail():
    return 1 / 0


def die():
    os.kill(os.getpid(), signal.SIGKILL)


def wait_for_a_signal(started):
    """Say in a file that work has begun, and work until told to end."""
    Path(started).touch()
    while True:
        time.sleep(0.01)


def run(*work):
    return {done.name: outcome for done, outcome in run_side_by_side(work, num_processes=2)}


@pytest.mark.slow
def test_each_piece_fails_or_succeeds_by_itself(caplog, monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    caplog.set_level(logging.INFO, logger="mdel_assets")
    found = run(
        Work("killed", die, ()),
        Work("first", give, (1,)),
        Work("refused", refuse, ("no such layer",)),
        Work("failed", fail, ()),
        Work("second", give, (2,)),
    )
    assert [found[name].value[0] for name in ("first", "second")] == [1, 2]
    pids = {os.getpid(), *(found[name].value[1] for name in ("first", "second"))}
    assert len(pids) == 3
    assert found["first"].value[2] == max(1, len(os.sched_getaffinity(0)) // 2)
    assert isinstance(found["killed"].error, WorkerError)
    assert "exit code -9" in str(found["killed"].error)
    assert isinstance(found["refused"].error, TrainingError)
    assert str(found["refused"].error) == "no such layer"
    assert isinstance(found["failed"].error, WorkerError)
    assert "division by zero" in str(found["failed"].error)
    assert "first: giving 1" in caplog.messages
    assert "second: giving 2" in caplog.messages


@pytest.mark.slow
def test_being_told_to_end_ends_what_runs_and_begins_nothing_more(tmp_path):
    begun = tmp_path / "begun"
    work = [Work(name, wait_for_a_signal, (str(begun),)) for name in ("one", "two", "three")]
    stream = run_side_by_side(work, num_processes=1)
    # The signal comes once the first piece is at work.
    code = (
        "import os, pathlib, signal, sys, time\n"
        "while not pathlib.Path(sys.argv[1]).exists(): time.sleep(0.05)\n"
        "os.kill(int(sys.argv[2]), signal.SIGINT)"
    )
    command = [sys.executable, "-c", code, str(begun), str(os.getpid())]
    with subprocess.Popen(command):
        found = {done.name: outcome.error for done, outcome in stream}
    assert set(found) == {"one", "two", "three"}
    for error in found.values():
        assert isinstance(error, TrainingInterruptedError)
        assert error.is_cancelled
    assert "told to end" in str(found["one"])
    assert "was not started" in str(found["three"])


@pytest.mark.slow
def test_processes_end_with_the_one_that_started_them(tmp_path):
    code = (
        "import sys\n"
        "from mdel_assets.machine.side_by_side import Work, run_side_by_side\n"
        "from mdel_assets_tests.machine.test_side_by_side import write_pid_and_wait\n"
        "if __name__ == '__main__':\n"
        "    work = [Work('one', write_pid_and_wait, (sys.argv[1],))]\n"
        "    list(run_side_by_side(work, num_processes=1))\n"
    )
    script = tmp_path / "script.py"
    script.write_text(code)
    begun = tmp_path / "begun"
    root = Path(__file__).parents[2]
    parent = subprocess.Popen(
        [sys.executable, str(script), str(begun)], env=os.environ | {"PYTHONPATH": str(root)}
    )
    while not (begun.exists() and begun.read_text()):
        assert parent.poll() is None
        time.sleep(0.05)
    parent.kill()
    parent.wait()
    child = int(begun.read_text())
    while Path(f"/proc/{child}/stat").exists():
        time.sleep(0.05)


def write_pid_and_wait(path):
    partial = Path(path).with_suffix(".partial")
    partial.write_text(str(os.getpid()))
    partial.rename(path)
    while True:
        time.sleep(0.01)


def test_small_work_and_large_models_get_no_processes_beside_each_other():
    assert num_at_once(8, model_bytes=1 << 20, num_operations=1e6) == 1
    assert num_at_once(8, model_bytes=1 << 50, num_operations=1e15) == 1
    cores = len(os.sched_getaffinity(0))
    assert num_at_once(8, model_bytes=1 << 20, num_operations=1e15) == min(8, cores)
    assert num_at_once(1, model_bytes=1 << 20, num_operations=1e15) == 1
