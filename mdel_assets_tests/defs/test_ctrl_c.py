"""Ctrl-C in every stage of the line: answered at once, nothing half-made, and gone on with."""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from mdel_assets.home import MdelHome
from mdel_assets.store.artifacts import RECORD_NAME
from mdel_assets_tests import warm_python
from mdel_assets_tests.conftest import PICO, pico_experiment
from mdel_assets_tests.defs.running_dagster import environment

_SECONDS = 3.0
KINDS = MdelHome(Path("nowhere")).lineage(pico_experiment(Path("nowhere"))).kinds()


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_ctrl_c_ends_a_stage_at_once_and_the_same_command_goes_on(finished, tmp_path, kind):
    experiment, whole, _ = finished
    shutil.copytree(whole.root, tmp_path / "home")
    home = MdelHome(tmp_path / "home")
    lineage = home.lineage(experiment)
    assert kind in lineage.kinds()
    for key in lineage.keys(kind):
        lineage.artifact(kind, key).record_path.unlink()
    options = {"env": environment(experiment, home, tmp_path), "cwd": tmp_path}
    command = [*warm_python.MDEL, "run", "--until", kind]
    with warm_python.start(command, **options) as process:
        process.read_until(f" {kind}: ")
        process.send_signal(signal.SIGINT)
        returncode = process.wait(timeout=_SECONDS)
    assert returncode in (0, 1)
    left = [path for path in home.root.rglob("*.tmp-*") if path.name.startswith(".")]
    assert left == []
    for record in home.root.rglob(f"*{RECORD_NAME}"):
        assert json.loads(record.read_text("utf-8"))["fingerprint"]
    done = warm_python.run(command, **options)
    assert done.returncode == 0, done.stdout
    assert all(lineage.current(kind, key) for key in lineage.keys(kind))


@pytest.mark.in_use
@pytest.mark.slow
@pytest.mark.parametrize("kind", ["shard_documents", "seed_model"])
def test_ctrl_c_in_a_terminal_is_answered_with_one_sentence(corpus, home, tmp_path, kind):
    """It reaches workers, what loads libraries for experts, and what mirrors Dagster's output."""
    long = PICO["training"] | {"num_tokens": 200_000}
    experiment = pico_experiment(corpus, training=long)
    with subprocess.Popen(
        [sys.executable, *warm_python.MDEL, "run", "--workers", "2"],
        env=environment(experiment, home, tmp_path),
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    ) as process:
        for line in process.stdout:
            if f" {kind}: " in line:
                break
        os.killpg(process.pid, signal.SIGINT)
        printed = process.stdout.read()
        returncode = process.wait()
    assert returncode == 1
    assert "Error: Stopped. Finished work is kept: run the same command again" in printed
    assert "Traceback" not in printed
    assert "KeyboardInterrupt" not in printed


@pytest.mark.in_use
def test_an_interrupt_that_a_finalizer_swallows_is_sent_again():
    code = """
import signal, time
from mdel_assets.defs.interrupts import answer_interrupts

class Finalized:
    def __del__(self):
        signal.raise_signal(signal.SIGINT)

answer_interrupts()
try:
    Finalized()
    time.sleep(60)
except KeyboardInterrupt:
    print("heard")
"""
    assert warm_python.run(["-c", code]).stdout == "heard\n"
