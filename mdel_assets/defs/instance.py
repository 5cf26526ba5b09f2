"""The Dagster instance of an experiment, set up once.

Processes that open a brand-new instance at the same time, as a webserver and a daemon do, can
corrupt its databases: each creates them. So they are created here first, one process at a time.
"""

from pathlib import Path

import dagster as dg

from mdel_assets.home import MdelHome
from mdel_assets.store.durable_files import exclusively, explaining_full_disk


def open_instance(home: MdelHome, experiment: str) -> dg.DagsterInstance:
    """Return an experiment's instance, with settings and databases created where they were not.

    Raises:
        DiskFullError: there is no room for them.

    """
    folder = home.dagster_home(experiment)
    with explaining_full_disk("Dagster's databases (they need some 16 MiB)", folder):
        home.initialize(experiment)
        return _open(folder)


def _open(folder: Path) -> dg.DagsterInstance:
    with exclusively(folder / ".creating"):
        instance = dg.DagsterInstance.from_config(str(folder))
        # Each of the three storages creates its database when it is first asked.
        instance.get_runs_count()
        instance.all_instigator_state()
        instance.get_latest_materialization_event(dg.AssetKey("seed_model"))
    return instance
