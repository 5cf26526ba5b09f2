"""The Dagster instance of a home, set up once.

Processes that open a brand-new instance at the same time, as a webserver and a daemon do, can
corrupt its databases: each creates them. So they are created here first, one process at a time.
"""

import dagster as dg

from mdel_assets.durable_files import exclusively
from mdel_assets.home import MdelHome


def open_instance(home: MdelHome) -> dg.DagsterInstance:
    """Return the instance of ``home``, with settings and databases created where they were not."""
    home.initialize()
    with exclusively(home.dagster_home / ".creating"):
        instance = dg.DagsterInstance.from_config(str(home.dagster_home))
        # Each of the three storages creates its database when it is first asked.
        instance.get_runs_count()
        instance.all_instigator_state()
        instance.get_latest_materialization_event(dg.AssetKey("seed_model"))
    return instance
