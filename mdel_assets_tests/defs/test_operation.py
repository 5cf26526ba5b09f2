"""Limits, crashes and backfills, with the real webserver, daemon and processes."""

import shutil
import subprocess

import dagster as dg
import psutil
import pytest

from mdel_assets_tests import warm_python
from mdel_assets_tests.conftest import PICO
from mdel_assets_tests.defs.running_dagster import (
    DOMAINS,
    RunningDagster,
    environment,
    four_domains,
    prepare,
    step_process,
)
from mdel_assets_tests.waiting import wait_until

pytestmark = pytest.mark.slow
# Long enough to be killed in the middle of.
LONGER = PICO["training"] | {"num_tokens": 49152, "save_steps": 50}


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    from mdel_assets.home import MdelHome

    folder = tmp_path_factory.mktemp("four")
    experiment = four_domains(folder, training=LONGER)
    home = MdelHome(tmp_path_factory.mktemp("prepared"))
    prepare(experiment, home)
    return experiment, home


@pytest.fixture
def place(prepared, tmp_path):
    from mdel_assets.home import MdelHome

    shutil.copytree(prepared[1].root, tmp_path / "home")
    home = MdelHome(tmp_path / "home")
    lineage = home.lineage(prepared[0])
    return home, lineage, environment(prepared[0], home, tmp_path)


@pytest.fixture
def running(place, tmp_path):
    started = RunningDagster(place[2], tmp_path)
    try:
        started.start()
        yield started
    finally:
        started.kill()


def break_dataset(lineage, domain):
    """Damage a domain's dataset, so that its expert cannot be trained."""
    (lineage.folder("domain_dataset", domain) / "train.parquet").unlink()


def test_two_runs_that_need_the_gpu_never_overlap(place, tmp_path):
    _, lineage, surroundings = place
    runs = [
        warm_python.start(
            [
                *("-m", "dagster", "asset", "materialize", "-m", "mdel_assets.definitions"),
                *("--select", "expert_model", "--partition", domain),
            ],
            env=surroundings,
            output=subprocess.DEVNULL,
            cwd=tmp_path,
        )
        for domain in DOMAINS[:2]
    ]
    assert [run.wait(timeout=300) for run in runs] == [0, 0]
    with dg.DagsterInstance.from_config(surroundings["DAGSTER_HOME"]) as instance:
        spans = []
        for run in instance.get_runs():
            times = [
                instance.all_logs(run.run_id, of_type=kind)[0].timestamp
                for kind in (dg.DagsterEventType.STEP_START, dg.DagsterEventType.STEP_SUCCESS)
            ]
            spans.append(times)
        # Both were under way before either was done: they did have to wait for each other.
        begun = [
            instance.all_logs(run.run_id, of_type=dg.DagsterEventType.RUN_START)[0].timestamp
            for run in instance.get_runs()
        ]
    (_, first_ended), (second_began, _) = sorted(spans)
    assert first_ended <= second_began
    assert max(begun) < first_ended
    assert all(lineage.current("expert_model", domain) for domain in DOMAINS[:2])


def test_a_backfill_in_this_process_goes_on_past_a_failed_domain(place, tmp_path):
    _, lineage, surroundings = place
    break_dataset(lineage, "beta")
    mdel = [*warm_python.MDEL, "backfill", "--asset", "expert_model", "--domains", "stale"]
    plan = warm_python.run([*mdel, "--dry-run"], env=surroundings, cwd=tmp_path)
    assert "4 of 4 would be remade" in plan.stdout
    assert not lineage.artifact("expert_model", "alpha").record_path.exists()
    done = warm_python.run([*mdel, "--here"], env=surroundings, cwd=tmp_path)
    assert done.returncode == 1
    assert "1 of 4 partitions of expert_model not made: beta." in done.stdout
    assert "train.parquet is missing" in done.stdout
    made = [key for key in DOMAINS if lineage.artifact("expert_model", key).record_path.exists()]
    assert made == [key for key in DOMAINS if key != "beta"]


def test_a_backfill_by_the_daemon_goes_on_past_a_failed_domain_and_a_killed_step(place, running):
    _, lineage, _ = place
    break_dataset(lineage, "beta")
    backfill = running.mdel("backfill", "--asset", "expert_model", "--domains", "all")
    with running.instance() as instance:
        run_id, pid = wait_until(
            lambda: step_process(instance, partition="alpha"), what="the step of alpha"
        )
        psutil.Process(pid).kill()
        output, _ = backfill.communicate(timeout=400)
        killed = instance.get_run_by_id(run_id)
        again = [r for r in instance.get_runs() if r.tags.get("dagster/parent_run_id") == run_id]
    assert backfill.returncode == 1
    assert "1 of 4 partitions of expert_model not made: beta." in output
    assert "train.parquet is missing" in output
    assert "again after a crash" in output
    assert killed.status == dg.DagsterRunStatus.FAILURE
    assert [run.status for run in again] == [dg.DagsterRunStatus.SUCCESS]
    made = [key for key in DOMAINS if lineage.artifact("expert_model", key).record_path.exists()]
    assert made == [key for key in DOMAINS if key != "beta"]


def test_after_a_power_cut_the_doctor_mends_and_the_backfill_completes(place, running):
    _, lineage, _ = place
    backfill = running.mdel("backfill", "--asset", "expert_model", "--domains", "all")

    def made():
        return [
            key for key in DOMAINS if lineage.artifact("expert_model", key).record_path.exists()
        ]

    with running.instance() as instance:

        def training():
            return [
                key
                for key in DOMAINS
                if key not in made() and step_process(instance, partition=key)
            ]

        wait_until(lambda: made() and training(), what="one expert made and another begun")
        running.kill()
    backfill.communicate(timeout=60)
    assert backfill.returncode == 1
    finished = {
        key: lineage.artifact("expert_model", key).record_path.stat().st_mtime_ns for key in made()
    }
    ill = running.mdel("doctor", "--offline")
    findings, _ = ill.communicate()
    assert ill.returncode == 1
    assert "is gone" in findings
    mended = running.mdel("doctor", "--offline", "--repair")
    findings, _ = mended.communicate()
    assert mended.returncode == 0, findings
    assert "A slot of the pool 'gpu' is held by run" in findings
    well = running.mdel("doctor", "--offline")
    assert "is well" in well.communicate()[0]
    running.start()
    wait_until(lambda: len(made()) == len(DOMAINS), seconds=400, what="the rest of the backfill")
    for key, written in finished.items():
        assert lineage.artifact("expert_model", key).record_path.stat().st_mtime_ns == written
