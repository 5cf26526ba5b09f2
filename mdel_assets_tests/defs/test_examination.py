"""What the doctor takes for a run whose process is gone."""

import json
import socket
import subprocess
import sys

import dagster as dg
import pytest
from dagster import DagsterEventType

from mdel_assets.defs.examination import examine_runs

HERE = socket.gethostname()
LOCAL_SERVER = {".dagster/grpc_info": json.dumps({"host": "localhost"})}
NAMED_SERVER = {".dagster/grpc_info": json.dumps({"host": HERE})}


def report_run(instance, tags):
    """Add a run that says it has begun, in a process that is not there."""
    done = subprocess.Popen([sys.executable, "-c", ""])
    done.wait()
    run = instance.add_run(dg.DagsterRun(job_name="expert", tags=tags))
    kind = DagsterEventType.RUN_START.value
    began = dg.DagsterEvent(kind, job_name="expert", message="began", pid=done.pid)
    instance.report_dagster_event(began, run.run_id)
    return run.run_id


@pytest.mark.parametrize(
    ("tags", "is_dead"),
    [
        ({}, True),
        ({"mdel/machine": HERE}, True),
        ({"mdel/machine": "other"}, False),
        # Every machine calls its own code server so.
        ({"mdel/machine": "other", **LOCAL_SERVER}, False),
        # A container that was created anew has another host name, and its service the same.
        ({"mdel/machine": "the-container-before", **NAMED_SERVER}, True),
    ],
)
def test_only_runs_of_this_machine_are_judged_by_its_processes(tags, is_dead):
    with dg.DagsterInstance.ephemeral() as instance:
        run_id = report_run(instance, tags)
        findings = list(examine_runs(instance))
        assert bool(findings) == is_dead
        for finding in findings:
            finding.repair()
        status = instance.get_run_by_id(run_id).status
        assert status == (dg.DagsterRunStatus.FAILURE if is_dead else dg.DagsterRunStatus.STARTED)
