"""A webserver and a daemon over one home, as processes that a test can kill."""

import contextlib
import json
import os
import signal
import socket
import sys
from pathlib import Path

import dagster as dg
import psutil
import yaml

from mdel_assets.defs.instance import open_instance
from mdel_assets.web.webserver import Webserver
from mdel_assets_tests import warm_python
from mdel_assets_tests.conftest import branch, make_document, pico_experiment, write_shard
from mdel_assets_tests.waiting import wait_until

# Looks at backfills every few seconds instead of twice a minute.
DAEMON = """
from dagster._daemon import controller
from dagster._daemon.cli import main
controller.DEFAULT_DAEMON_INTERVAL_SECONDS = 3
main()
"""
DOMAINS = ["alpha", "beta", "gamma", "delta"]


def four_domains(folder, **training):
    """Return an experiment of four small domains, its corpus in ``folder``."""
    documents = [
        {**make_document("Github", 1000 * place + number), "meta": {"pile_set_name": name}}
        for place, name in enumerate(DOMAINS)
        for number in range(8)
    ]
    for name in ("00", "01", "val", "test"):
        first = ["00", "01", "val", "test"].index(name)
        write_shard(folder / f"{name}.jsonl.zst", documents[first::4])
    return pico_experiment(
        folder,
        name="four",
        domains=[{"key": name, "name": name} for name in DOMAINS],
        merges={},
        baselines={"random_split": False},
        **training,
    )


def prepare(experiment, home):
    """Make everything up to the seed model, and set the Dagster home up."""
    open_instance(home, experiment.name).dispose()
    branch(experiment, home)
    return home.lineage(experiment)


def environment(experiment, home, folder):
    """Return what the commands need to work on ``experiment`` in ``home``."""
    path = Path(folder) / "experiment.yaml"
    content = json.loads(experiment.model_dump_json(exclude_unset=True, by_alias=True))
    path.write_text(yaml.safe_dump(content))
    return {
        **os.environ,
        "MDEL_HOME": str(home.root),
        "MDEL_EXPERIMENT": str(path),
        "DAGSTER_HOME": str(home.dagster_home(experiment.name)),
        "WANDB_MODE": "offline",
        "PYTHONWARNINGS": "ignore",
        "OMP_NUM_THREADS": "1",
    }


def command(name):
    """Return the path of a command that is installed beside this Python."""
    return str(Path(sys.executable).with_name(name))


class RunningDagster:
    """A webserver and a daemon; ``kill`` ends them and all their runs without a word."""

    def __init__(self, environment, folder):
        self.environment = environment
        self.folder = Path(folder)
        self.processes = []
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.server = Webserver(f"http://127.0.0.1:{self.port}")

    def start(self):
        module = ["-m", "mdel_assets.definitions"]
        address = ["-h", "127.0.0.1", "-p", str(self.port)]
        self._start("webserver", ["-m", "dagster_webserver", *module, *address])
        self._start("daemon", ["-c", DAEMON, "run", *module])
        wait_until(self._is_ready, every=1.0, what="the start of webserver and daemon")

    def _start(self, name, words):
        with (self.folder / f"{name}.log").open("ab") as log:
            process = warm_python.start(words, env=self.environment, output=log, cwd=self.folder)
        self.processes.append(process)

    def _is_ready(self):
        served = {
            "root": self.environment["MDEL_HOME"],
            "experiment": yaml.safe_load(Path(self.environment["MDEL_EXPERIMENT"]).read_text())[
                "name"
            ],
        }
        return self.server.serves(**served) and self.server.has_daemon()

    def kill(self):
        """Kill everything, children first noted, so that none is left behind."""
        family = [one for process in self.processes for one in warm_python.family(process.pid)]
        for process in family:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.send_signal(signal.SIGKILL)
        psutil.wait_procs(family)
        for process in self.processes:
            process.wait()
        self.processes = []

    def instance(self):
        return dg.DagsterInstance.from_config(self.environment["DAGSTER_HOME"])

    def mdel(self, *arguments):
        """Start an ``mdel`` command; return the process."""
        return warm_python.start(
            [*warm_python.MDEL, *arguments],
            env={**self.environment, "MDEL_WEBSERVER": self.server.url},
            cwd=self.folder,
        )


def step_process(instance, *, partition, number=0):
    """Return (run id, pid) of the ``number``-th run of a partition once its step has begun."""
    runs = instance.get_runs(dg.RunsFilter(tags={"dagster/partition": partition}))
    runs = sorted(runs, key=lambda run: "dagster/parent_run_id" in run.tags)
    if len(runs) <= number:
        return None
    begun = instance.all_logs(runs[number].run_id, of_type=dg.DagsterEventType.STEP_START)
    return (runs[number].run_id, begun[0].dagster_event.pid) if begun else None
