"""Labels of every run: its experiment, its machine and, for the timeline, its code location.

Runs that the web UI or the daemon launches have a code location. Runs in a command's own process
(`mdel run`, `dg launch`, `dagster asset materialize`) have none: the timeline leaves them out, and
the web UI cannot run them again. So each run gets its code location before its first step.
"""

import os
import socket
from collections.abc import Mapping

import dagster as dg
from dagster._core.definitions.repository_definition import SINGLETON_REPOSITORY_NAME
from dagster._core.remote_origin import (
    RegisteredCodeLocationOrigin,
    RemoteJobOrigin,
    RemoteRepositoryOrigin,
)
from dagster._core.storage.tags import MAX_RETRIES_TAG, REPOSITORY_LABEL_TAG

EXPERIMENT_TAG = "mdel/experiment"
MACHINE_TAG = "mdel/machine"


def location_name(experiment: str, environment: Mapping[str, str] = os.environ) -> str:
    """Return the code location's name in the web UI: the experiment's, or ``MDEL_LOCATION``."""
    return environment.get("MDEL_LOCATION") or experiment


def label_run(instance: dg.DagsterInstance, run: dg.DagsterRun, *, experiment: str) -> None:
    """Give a run its experiment's and machine's names and, if it has none, its code location."""
    tag_with_machine(instance, run.run_id)
    if EXPERIMENT_TAG in run.tags:
        return
    if run.remote_job_origin is not None:
        instance.add_run_tags(run.run_id, {EXPERIMENT_TAG: experiment})
        return
    location = RegisteredCodeLocationOrigin(location_name(experiment))
    repository = RemoteRepositoryOrigin(location, SINGLETON_REPOSITORY_NAME)
    tags = {
        EXPERIMENT_TAG: experiment,
        REPOSITORY_LABEL_TAG: repository.get_label(),
        # A person who stops a command does not want a daemon to start it again.
        MAX_RETRIES_TAG: "0",
    }
    instance.add_run_tags(run.run_id, tags)
    labelled = instance.get_run_by_id(run.run_id)
    assert labelled is not None
    origin = RemoteJobOrigin(repository, run.job_name)
    instance.run_storage.replace_job_origin(labelled, origin)


def tag_with_machine(instance: dg.DagsterInstance, run_id: str) -> None:
    """Give a run the name of this machine: its process is not visible on others."""
    run = instance.get_run_by_id(run_id)
    # A run that is started once more inherits the tags of the first.
    if run is not None and run.tags.get(MACHINE_TAG) != socket.gethostname():
        instance.add_run_tags(run_id, {MACHINE_TAG: socket.gethostname()})
