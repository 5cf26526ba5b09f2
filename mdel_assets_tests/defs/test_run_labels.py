"""What runs say of themselves in the web UI: experiment and code location."""

import socket

import dagster as dg
import pytest

from mdel_assets.defs.graph import build_definitions
from mdel_assets.defs.instance import open_instance
from mdel_assets.defs.launch import Runner
from mdel_assets.defs.run_labels import label_run
from mdel_assets_tests.conftest import pico_experiment

pytestmark = pytest.mark.in_use


def runs_of(instance, name):
    """Return the runs that the page of a code location lists."""
    return instance.get_runs(dg.RunsFilter(tags={".dagster/repository": f"__repository__@{name}"}))


def test_two_experiments_of_one_home_show_their_own_runs_by_name(home, corpus):
    for name in ("pico", "firm"):
        experiment = pico_experiment(corpus, name=name)
        with open_instance(home, name) as instance:
            runner = Runner(build_definitions(experiment, home), instance, home.lineage(experiment))
            assert runner.run("raw_pile_shard", "val").state == "made"
    for name in ("pico", "firm"):
        with open_instance(home, name) as instance:
            (run,) = instance.get_runs()
            assert run.tags["mdel/experiment"] == name
            assert run.status == dg.DagsterRunStatus.SUCCESS
            # What the timeline puts it under, and what lets a person run it again by a click.
            repository = run.remote_job_origin.repository_origin
            assert repository.code_location_origin.location_name == name
            assert [found.run_id for found in runs_of(instance, name)] == [run.run_id]
            # Who ends a command does not want a daemon to begin it again.
            assert run.tags["dagster/max_retries"] == "0"
            event = instance.get_latest_materialization_event(dg.AssetKey("raw_pile_shard"))
            assert event.run_id == run.run_id


def test_the_location_of_a_deployment_has_the_name_that_it_was_given(home, corpus, monkeypatch):
    monkeypatch.setenv("MDEL_LOCATION", "mdel_assets")
    with open_instance(home, "pico") as instance:
        experiment = pico_experiment(corpus)
        runner = Runner(build_definitions(experiment, home), instance, home.lineage(experiment))
        runner.run("raw_pile_shard", "val")
        assert len(runs_of(instance, "mdel_assets")) == 1


def test_every_run_names_the_machine_that_it_is_on():
    """One that is started once more, perhaps elsewhere, inherits the tags of the first."""
    first = {"mdel/experiment": "pico", "mdel/machine": "other"}
    with dg.DagsterInstance.ephemeral() as instance:
        for tags in ({}, first):
            run = instance.add_run(dg.DagsterRun(job_name="expert", tags=tags))
            label_run(instance, run, experiment="pico")
            labelled = instance.get_run_by_id(run.run_id)
            assert labelled.tags["mdel/machine"] == socket.gethostname()
            assert labelled.tags["mdel/experiment"] == "pico"


def test_every_asset_names_its_experiment(home, corpus):
    graph = build_definitions(pico_experiment(corpus, name="firm"), home).resolve_asset_graph()
    keys = graph.get_all_asset_keys()
    assert len(keys) > 10
    assert {graph.get(key).metadata["experiment"] for key in keys} == {"firm"}
