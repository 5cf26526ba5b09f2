"""Submissions to SLURM, whose commands are programs that say what a test has written for them."""

import os
import shlex
import sys

import pytest

from mdel_assets.engines.job_folder import JobFolder
from mdel_assets.engines.jobs import EngineDownError, Work
from mdel_assets.engines.settings import SlurmSettings
from mdel_assets.engines.slurm import Slurm
from mdel_assets.errors import WorkerError

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="SLURM is for Linux")
# What the commands of SLURM 23.11 print.
UNREACHABLE = "Unable to contact slurm controller (connect failure)"
LATE = "Socket timed out on send/recv operation"


def failing(words):
    return f"echo 'sbatch: error: Batch job submission failed: {words}' >&2; exit 1"


class Commands:
    """Programs in a folder of the path; each call runs the next of the lines written for it."""

    def __init__(self, folder):
        self.folder = folder

    def say(self, name, *lines):
        calls = self.folder / f"{name}.calls"
        numbers = range(1, len(lines) + 1)
        cases = "\n".join(f"{n}) {line} ;;" for n, line in zip(numbers, lines, strict=True))
        program = self.folder / name
        program.write_text(
            f"#!/bin/bash\necho >> {shlex.quote(str(calls))}\n"
            f"case $(wc -l < {shlex.quote(str(calls))}) in\n{cases}\n"
            f"*) echo not expected >&2; exit 9 ;;\nesac\n"
        )
        program.chmod(0o755)

    def num_calls(self, name):
        calls = self.folder / f"{name}.calls"
        return len(calls.read_text()) if calls.exists() else 0


@pytest.fixture
def commands(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    return Commands(tmp_path)


def submit(tmp_path, *, num_works=1):
    waits = []
    engine = Slurm(SlurmSettings(), command=["python"], wait=waits.append)
    works = [
        Work(f"pico/expert_model/{n}", JobFolder(tmp_path / str(n)), f"0123-{n}", {})
        for n in range(num_works)
    ]
    return engine.submit("0123", works), len(waits)


def test_a_controller_that_does_not_answer_is_asked_again(commands, tmp_path):
    commands.say("sbatch", failing(UNREACHABLE), failing(UNREACHABLE), "echo 7")
    # Nor does it say at first whether it has the job.
    commands.say("squeue", f"echo '{UNREACHABLE}' >&2; exit 1", "true", "true")
    assert submit(tmp_path) == (["7"], 3)
    assert commands.num_calls("sbatch") == 3


@pytest.mark.parametrize(("listed", "numbers"), [(["7"], ["7"]), (["7_0", "7_1"], ["7_0", "7_1"])])
def test_jobs_that_were_accepted_without_an_answer_are_not_submitted_again(
    commands, tmp_path, listed, numbers
):
    rows = "".join(f"{number}|mdel:0123|\\n" for number in ["6", *listed])
    commands.say("sbatch", failing(LATE))
    commands.say("squeue", f"printf '{rows.replace('mdel:0123', 'mdel:9', 1)}'")
    assert submit(tmp_path, num_works=len(numbers)) == (numbers, 1)
    assert commands.num_calls("sbatch") == 1


def test_what_is_refused_is_not_asked_for_again(commands, tmp_path):
    commands.say("sbatch", failing("Invalid account"))
    with pytest.raises(WorkerError, match=r"sbatch refused the job: .*Invalid account") as caught:
        submit(tmp_path)
    assert not isinstance(caught.value, EngineDownError)
    assert commands.num_calls("sbatch") == 1
