"""Labels of every run: its experiment and, for the web UI's timeline, its code location.

Runs that the web UI or the daemon launches have a code location. Runs in a command's own process
(`mdel run`, `dg launch`, `dagster asset materialize`) have none: the timeline leaves them out, and
the web UI cannot run them again. So each run gets its code location before its first step.
"""

import os
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


def location_name(experiment: str, environment: Mapping[str, str] = os.environ) -> str:
    """Return the code location's name in the web UI: the experiment's, or ``MDEL_LOCATION``."""
    return environment.get("MDEL_LOCATION") or experiment


def label_run(instance: dg.DagsterInstance, run: dg.DagsterRun, *, experiment: str) -> None:
    """Give a run its experiment's name and, if it has none, its code location."""
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
