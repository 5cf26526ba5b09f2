"""The doctor's checks of Dagster's instance: runs whose process is gone, and the slots they hold.

A run is dead if it is marked as running and its process is gone. Runs of another machine or another
container are left to a doctor there.
"""

import json
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import dagster as dg
from dagster import DagsterEventType

from mdel_assets.defs.run_labels import MACHINE_TAG
from mdel_assets.maintenance.examination import Finding

_RUNNING = [
    dg.DagsterRunStatus.STARTING,
    dg.DagsterRunStatus.STARTED,
    dg.DagsterRunStatus.CANCELING,
]
# Events that the process of a run writes itself.
_OF_RUN_PROCESS = {
    DagsterEventType.RUN_START,
    DagsterEventType.STEP_START,
    DagsterEventType.STEP_OUTPUT,
    DagsterEventType.ENGINE_EVENT,
}
_LONGEST_START_SECONDS = 600.0
_LOOPBACK = ("localhost", "127.0.0.1")


def examine_instance(folder: Path) -> Iterator[Finding]:
    """Examine the instance in a folder; dead runs are repaired before slots are examined."""
    try:
        instance = dg.DagsterInstance.from_config(str(folder))
    except Exception as error:  # noqa: BLE001 whatever is wrong with it, the rest is looked at
        settings = folder / "dagster.yaml"
        yield Finding(
            f"Dagster's instance cannot be opened ({type(error).__name__}: {str(error)[:300]}). "
            f"Correct {settings}. If its databases are damaged, stop everything, move {folder} "
            f"away and run 'mdel init': artifacts are not touched."
        )
        return
    with instance:
        yield from examine_runs(instance)
        yield from examine_slots(instance)


def examine_runs(instance: dg.DagsterInstance) -> Iterator[Finding]:
    """Find runs that are marked as running although their process is gone."""
    records = instance.get_run_records(dg.RunsFilter(statuses=_RUNNING))
    for record in records:
        run = record.dagster_run
        why = why_dead(instance, record)
        if not why:
            continue

        def repair(run: dg.DagsterRun = run) -> str:
            instance.report_run_failed(run, "Its process is gone; marked as failed by mdel doctor.")
            return "marked it as failed; if a daemon launched the run, it starts it once more"

        what = ", ".join(key.to_user_string() for key in run.asset_selection or [])
        partition = run.tags.get("dagster/partition", "")
        yield Finding(
            f"Run {run.run_id[:8]} ({what or run.job_name} {partition}) is marked "
            f"{run.status.value}, but {why}.",
            repair,
        )


def why_dead(instance: dg.DagsterInstance, record: dg.RunRecord) -> str:
    """Return the evidence that a run's process is gone; empty if it is not."""
    import psutil

    run = record.dagster_run
    if _runs_elsewhere(run):
        return ""
    found = [
        (entry.dagster_event.pid, entry.timestamp)
        for entry in instance.all_logs(run.run_id, of_type=_OF_RUN_PROCESS)
        if entry.dagster_event and entry.dagster_event.pid
        if entry.dagster_event.event_type
        in (DagsterEventType.RUN_START, DagsterEventType.STEP_START)
    ]
    if not found:
        waited = time.time() - record.create_timestamp.timestamp()
        if waited > _LONGEST_START_SECONDS:
            return f"it has not begun in {waited / 60:.0f} minutes"
        return ""
    pid, began = found[-1]
    try:
        if psutil.Process(pid).create_time() <= began:
            return ""
    except psutil.NoSuchProcess:
        pass
    return f"its process {pid} is gone"


def _runs_elsewhere(run: dg.DagsterRun) -> bool:
    """Whether the run's process is on another machine, and so is not visible."""
    host = json.loads(run.tags.get(".dagster/grpc_info", "{}")).get("host", "localhost")
    if host in _LOOPBACK:
        # No server has this name on one machine alone, so the run's own label says where it is.
        here = socket.gethostname()
        return run.tags.get(MACHINE_TAG, here) != here
    try:
        with socket.socket() as probe:
            probe.bind((socket.gethostbyname(host), 0))
    except OSError:
        return True
    return False


def examine_slots(instance: dg.DagsterInstance) -> Iterator[Finding]:
    """Find pool slots that are held by, or reserved for, runs that have ended."""
    storage = instance.event_log_storage
    for pool in sorted(storage.get_concurrency_keys()):
        info = storage.get_concurrency_info(pool)
        holders = {slot.run_id for slot in info.claimed_slots}
        holders |= {step.run_id for step in info.pending_steps}
        for run_id in sorted(holders):
            run = instance.get_run_by_id(run_id)
            if run and not run.is_finished:
                continue

            def repair(run_id: str = run_id) -> str:
                storage.free_concurrency_slots_for_run(run_id)
                return "freed it"

            yield Finding(
                f"A slot of the pool '{pool}' is held by run {run_id[:8]}, which has ended: steps "
                f"that need it would wait forever.",
                repair,
            )
