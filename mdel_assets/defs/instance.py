"""The Dagster instance of an experiment, created once.

If two processes (such as a webserver and a daemon) open a new instance at the same time, each
creates its databases, which can corrupt them. So the databases are created here, under a lock.
"""

from pathlib import Path

import dagster as dg

from mdel_assets.home import MdelHome
from mdel_assets.store.durable_files import exclusively, explaining_full_disk


def open_instance(home: MdelHome, experiment: str) -> dg.DagsterInstance:
    """Return an experiment's instance; create its settings and databases if they are missing.

    Raises:
        DiskFullError: the disk has no room for them.

    """
    folder = home.dagster_home(experiment)
    with explaining_full_disk("Dagster's databases (they need some 16 MiB)", folder):
        home.initialize(experiment)
        return _open(folder)


def _open(folder: Path) -> dg.DagsterInstance:
    with exclusively(folder / ".creating"):
        instance = dg.DagsterInstance.from_config(str(folder))
        # Each of the three storages creates its database on first use.
        instance.get_runs_count()
        instance.all_instigator_state()
        instance.get_latest_materialization_event(dg.AssetKey("seed_model"))
    return instance
