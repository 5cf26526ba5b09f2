"""Ctrl-C in every stage of the line: answered at once, nothing half-made, and gone on with."""

import json
import shutil
import signal
from pathlib import Path

import pytest

from mdel_assets.artifacts import RECORD_NAME
from mdel_assets.home import MdelHome
from mdel_assets_tests import warm_python
from mdel_assets_tests.conftest import pico_experiment
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
