"""The job of the whole line."""

import shutil

import dagster as dg
import pytest

from mdel_assets.definitions import with_line_job
from mdel_assets.defs.line_job import LINE_JOB
from mdel_assets.home import MdelHome
from mdel_assets_tests.conftest import pico_experiment

pytestmark = pytest.mark.in_use


def run_job(experiment, home, instance):
    job = with_line_job(experiment, home).resolve_job_def(LINE_JOB)
    return job.execute_in_process(instance=instance, raise_on_error=False)


@pytest.mark.slow
def test_it_makes_what_is_missing_and_leaves_the_rest(finished, tmp_path):
    experiment, done, _ = finished
    home = MdelHome(tmp_path / "home")
    shutil.copytree(done.root, home.root)
    merged = home.root / "pico" / "models" / "merged" / "pair"
    weights = (merged / "model.safetensors").read_bytes()
    shutil.rmtree(merged)
    with dg.DagsterInstance.ephemeral() as instance:
        result = run_job(experiment, home, instance)
        assert result.success
        assert (merged / "model.safetensors").read_bytes() == weights
        runs = {(run.job_name, run.tags.get("dagster/partition")) for run in instance.get_runs()}
        assert runs == {(LINE_JOB, None), ("__ASSET_JOB", "pair")}
        again = run_job(experiment, home, instance)
        assert again.success
        assert instance.get_runs_count() == 3


def test_it_fails_with_the_first_cause_where_something_is_not_made(corpus, home):
    source = {"sha256": {"00": "0" * 64}}
    with dg.DagsterInstance.ephemeral() as instance:
        result = run_job(pico_experiment(corpus, source=source), home, instance)
    assert not result.success
    (error,) = [e.step_failure_data.error for e in result.all_events if e.is_step_failure]
    assert error.message.startswith("mdel_assets.errors.LineError: ")
    assert "The first: raw_pile_shard 00: " in error.message
    assert error.stack == []
