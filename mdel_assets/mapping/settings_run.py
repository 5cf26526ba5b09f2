"""Run the settings of a family that are not up to date, each in a process of its own.

A setting is an experiment like any other, and its process is `mdel run`. So a run of the map that
was stopped, or killed, goes on where it was: finished settings are left out, and `mdel run` resumes
the one that was being made.
"""

import dataclasses
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from mdel_assets.experiment.families import ExperimentFamily
from mdel_assets.experiment.loading import load_experiment
from mdel_assets.home import MdelHome
from mdel_assets.line.what_is_stale import what_is_stale
from mdel_assets.machine.child_processes import children_deaf_to_interrupts

_RUN = "from mdel_assets.cli.main import main; main()"
_LAST_LINES = 4
_SECONDS_TO_END = 60


@dataclasses.dataclass(frozen=True)
class SettingRun:
    """How the run of a setting ended: ``message`` is empty unless it failed."""

    setting: str
    number: int
    of: int
    elapsed_seconds: float
    message: str = ""


def stale_settings(family: ExperimentFamily, home: MdelHome) -> list[str]:
    """Return the settings of which something is missing or stale, in the order of the family."""
    found = []
    for setting, name in family.experiment_names().items():
        line = what_is_stale(home.lineage(load_experiment(name)))
        if line.found or line.is_cut_off:
            found.append(setting)
    return found


def run_settings(
    family: ExperimentFamily, home: MdelHome, settings: Sequence[str], *, logs: Path
) -> Iterator[SettingRun]:
    """Run ``settings`` one after another, and yield how each ended; a failure stops no other.

    What a run prints goes to ``logs/SETTING.log``.
    """
    logs.mkdir(parents=True, exist_ok=True)
    names = family.experiment_names()
    for number, setting in enumerate(settings, start=1):
        started = time.monotonic()
        message = _run(names[setting], home, logs / f"{setting}.log")
        yield SettingRun(setting, number, len(settings), time.monotonic() - started, message)


def _run(experiment: str, home: MdelHome, log: Path) -> str:
    """Run one experiment; return why it failed, or nothing."""
    environment = os.environ | {"MDEL_EXPERIMENT": experiment, "MDEL_HOME": str(home.root)}
    command = [sys.executable, "-W", "ignore", "-c", _RUN, "run"]
    with log.open("w", encoding="utf-8") as file:
        with children_deaf_to_interrupts():
            child = subprocess.Popen(command, env=environment, stdout=file, stderr=file)
        try:
            code = child.wait()
        except BaseException:
            _end(child)
            raise
    if code == 0:
        return ""
    lines = log.read_text("utf-8", errors="replace").strip().splitlines()
    return "\n".join(lines[-_LAST_LINES:]) or f"it ended with exit status {code}"


def _end(child: "subprocess.Popen[bytes]") -> None:
    """Tell a run to end, which it does once a checkpoint is saved; end it if it does not."""
    child.terminate()
    try:
        child.wait(_SECONDS_TO_END)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()
