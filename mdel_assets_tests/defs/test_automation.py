"""What is requested without anyone asking: by schedules, by sensors, by the inputs of an asset."""

import datetime as dt
import shutil

import dagster as dg
import pytest

from mdel_assets.defs.graph import build_definitions
from mdel_assets.home import MdelHome
from mdel_assets.line.making import make_one
from mdel_assets_tests.conftest import PICO, make_documents, pico_experiment, write_shard

pytestmark = [
    pytest.mark.slow,
    # Conditions in Python are in preview.
    pytest.mark.filterwarnings("ignore::dagster.PreviewWarning"),
    pytest.mark.filterwarnings("ignore::dagster.BetaWarning"),
]
NIGHT = dt.datetime(2026, 5, 4, 1, tzinfo=dt.UTC)
TRAINING = PICO["training"]


@pytest.fixture
def place(finished, tmp_path):
    shutil.copytree(finished[1].root, tmp_path / "home")
    return MdelHome(tmp_path / "home")


@pytest.fixture
def instance():
    with dg.DagsterInstance.ephemeral() as instance:
        yield instance


def tick(definitions, schedule, instance, at=NIGHT):
    context = dg.build_schedule_context(
        instance=instance,
        scheduled_execution_time=at,
        repository_def=definitions.get_repository_def(),
    )
    return definitions.resolve_schedule_def(schedule).evaluate_tick(context)


def folder_of(experiment, home, kind, key=""):
    return home.lineage(experiment).artifact(kind, key).folder


def test_all_that_is_automatic_ships_stopped(finished):
    repository = build_definitions(finished[0], finished[1]).get_repository_def()
    stopped = [
        *(s.default_status == dg.DefaultScheduleStatus.STOPPED for s in repository.schedule_defs),
        *(s.default_status == dg.DefaultSensorStatus.STOPPED for s in repository.sensor_defs),
    ]
    assert stopped == [True] * 4


def test_nothing_is_requested_at_night_where_every_expert_is_up_to_date(finished, instance):
    night = tick(build_definitions(finished[0], finished[1]), "nightly_experts", instance)
    assert night.run_requests == []
    assert "all 3 domains with a dataset are up to date" in night.skip_message


def test_the_expert_that_went_missing_is_requested_alone_and_its_run_makes_it(
    finished, place, instance
):
    experiment, _, _ = finished
    expert = folder_of(experiment, place, "expert_model", "arxiv")
    shutil.rmtree(expert)
    definitions = build_definitions(experiment, place)
    (request,) = tick(definitions, "nightly_experts", instance).run_requests
    assert (request.partition_key, request.run_key) == ("arxiv", "expert_model-arxiv-2026-05-04")
    assert request.tags["mdel/reason"] == "never made"
    done = definitions.resolve_job_def("bring_expert_up_to_date").execute_in_process(
        partition_key="arxiv", instance=instance
    )
    assert done.success
    assert (expert / "model.safetensors").exists()
    assert tick(definitions, "nightly_experts", instance).run_requests == []


def test_changed_settings_and_changed_text_ask_for_every_present_domain(corpus, finished, instance):
    home = finished[1]
    slower = pico_experiment(corpus, training=TRAINING | {"learning_rate": 1e-3})
    requests = tick(build_definitions(slower, home), "nightly_experts", instance).run_requests
    # Enron is absent from the corpus.
    assert [request.partition_key for request in requests] == ["github", "arxiv", "freelaw"]
    assert {request.tags["mdel/reason"] for request in requests} == {
        "changed: config learning_rate"
    }
    redrawn = pico_experiment(corpus, mixture={"seed": 7})
    requests = tick(build_definitions(redrawn, home), "nightly_experts", instance).run_requests
    assert [request.partition_key for request in requests] == ["github", "arxiv", "freelaw"]
    assert "domain_dataset 'github': changed: config mixture" in requests[0].tags["mdel/reason"]


def test_a_night_before_any_dataset_says_what_to_make_first(corpus, home, instance):
    night = tick(build_definitions(pico_experiment(corpus), home), "nightly_experts", instance)
    assert night.run_requests == []
    assert "materialize domain_dataset first" in night.skip_message


def test_run_keys_are_those_of_the_day(corpus, finished, instance):
    slower = pico_experiment(corpus, training=TRAINING | {"learning_rate": 1e-3})
    definitions = build_definitions(slower, finished[1])
    keys = [
        [r.run_key for r in tick(definitions, "nightly_experts", instance, at=at).run_requests]
        for at in (NIGHT, NIGHT + dt.timedelta(hours=5), NIGHT + dt.timedelta(days=1))
    ]
    assert keys[0] == keys[1]
    assert not set(keys[0]) & set(keys[2])


def test_the_weekly_report_is_made_of_the_models_that_are_there(finished, place, instance):
    experiment, _, _ = finished
    definitions = build_definitions(experiment, place)
    assert "up to date" in tick(definitions, "weekly_report", instance).skip_message
    shutil.rmtree(folder_of(experiment, place, "expert_model", "freelaw"))
    shutil.rmtree(folder_of(experiment, place, "token_scores", "merged-pair"))
    (request,) = tick(definitions, "weekly_report", instance).run_requests
    assert request.run_key == "weekly_report-2026-05-04"
    assert request.tags["mdel/reason"] == "token_scores 'merged-pair': never made"
    done = definitions.resolve_job_def("bring_reports_up_to_date").execute_in_process(
        tags=request.tags,
        instance=instance,
        asset_selection=request.asset_selection,
    )
    assert done.success
    # An ensemble is of all experts: it waits for the one that is gone.
    assert [key.path[-1] for key in request.asset_selection] == [
        "token_scores",
        "perplexity_report",
        "perplexity_matrix",
        "experiment_report",
    ]
    lineage = place.lineage(experiment)
    assert lineage.current("token_scores", "merged-pair")
    states = [
        m.metadata["state"].text
        for m in done.asset_materializations_for_node("token_scores")
        if m.partition == "expert-freelaw"
    ]
    assert states == ["expert_model 'freelaw' was never made: nothing to score"]


def test_the_weekly_report_makes_ensembles_that_alone_are_stale(finished, place, instance):
    experiment, _, _ = finished
    folder_of(experiment, place, "ensemble_report").joinpath("ensemble.record.json").unlink()
    definitions = build_definitions(experiment, place)
    (request,) = tick(definitions, "weekly_report", instance).run_requests
    assert request.tags["mdel/reason"] == "ensemble_report: never made"
    done = definitions.resolve_job_def("bring_reports_up_to_date").execute_in_process(
        tags=request.tags, instance=instance, asset_selection=request.asset_selection
    )
    assert done.success
    assert place.lineage(experiment).current("ensemble_report")


def evaluate(experiment, home, instance, cursor=None):
    """Evaluate all conditions once; return what was requested, and the cursor for the next time."""
    result = dg.evaluate_automation_conditions(
        build_definitions(experiment, home), instance, cursor=cursor
    )
    requested = set()
    for evaluation in result.results:
        keys = evaluation.true_subset.expensively_compute_asset_partitions()
        requested |= {(key.asset_key.path[-1], key.partition_key) for key in keys}
    return requested, result.cursor


def test_a_merge_follows_its_experts_once_and_waits_while_one_is_missing(finished, place, instance):
    experiment, _, _ = finished
    requested, cursor = evaluate(experiment, place, instance)
    assert requested == set()
    expert = folder_of(experiment, place, "expert_model", "github")
    aside = expert.rename(expert.with_name("aside"))
    shutil.rmtree(folder_of(experiment, place, "merged_model", "pair"))
    requested, cursor = evaluate(experiment, place, instance, cursor)
    assert ("merged_model", "pair") not in requested
    aside.rename(expert)
    requested, cursor = evaluate(experiment, place, instance, cursor)
    assert requested == {("merged_model", "pair")}
    # Requested, and not made: it is not asked for again before an input changes.
    assert evaluate(experiment, place, instance, cursor)[0] == set()


def test_what_lies_stale_when_the_sensor_is_turned_on_is_requested(finished, place, instance):
    experiment, _, _ = finished
    shutil.rmtree(folder_of(experiment, place, "token_scores", "merged-pair"))
    requested, _ = evaluate(experiment, place, instance)
    assert requested == {("token_scores", "merged-pair")}


def test_nothing_follows_an_input_that_failed_its_blocking_check(finished, place, instance):
    experiment, _, _ = finished
    shutil.rmtree(folder_of(experiment, place, "merged_model", "pair"))
    failed = dg.AssetCheckEvaluation(
        asset_key=dg.AssetKey("expert_model"),
        check_name="frozen_weights_unchanged",
        passed=False,
        metadata={},
        severity=dg.AssetCheckSeverity.ERROR,
        blocking=True,
    )
    instance.report_runless_asset_event(dg.AssetMaterialization("expert_model", partition="github"))
    instance.report_runless_asset_event(failed)
    requested, _ = evaluate(experiment, place, instance)
    assert ("merged_model", "pair") not in requested


class Watching:
    """The sensor of shards, tick after tick."""

    def __init__(self, experiment, home, instance):
        self.definitions = build_definitions(experiment, home)
        self.instance = instance
        self.cursor = None

    def look(self):
        """Return the run keys that this tick requests, by shard, and why it requests none."""
        context = dg.build_sensor_context(
            instance=self.instance,
            cursor=self.cursor,
            repository_def=self.definitions.get_repository_def(),
        )
        found = self.definitions.resolve_sensor_def("new_shards").evaluate_tick(context)
        self.cursor = found.cursor
        return {r.partition_key: r.run_key for r in found.run_requests}, found.skip_message


def test_a_new_shard_is_passed_over_once_it_has_stopped_growing(corpus, tmp_path, instance):
    watched = tmp_path / "shards"
    watched.mkdir()
    shutil.copy(corpus / "00.jsonl.zst", watched)
    experiment = pico_experiment(corpus, source={"train": [str(watched / "*.jsonl.zst")]})
    watching = Watching(experiment, MdelHome(tmp_path / "home"), instance)

    def look():
        return sorted(watching.look()[0])

    assert look() == []
    assert look() == ["00", "test", "val"]
    job = watching.definitions.resolve_job_def("pass_over_shard")
    for key in ("00", "test", "val"):
        assert job.execute_in_process(partition_key=key, instance=instance).success
    assert look() == []
    late = write_shard(watched / "01.jsonl.zst", make_documents({"Github": 5}, first=900))
    assert look() == []
    write_shard(late, make_documents({"Github": 9}, first=900))
    assert look() == []
    assert look() == ["01"]
    assert job.execute_in_process(partition_key="01", instance=instance).success
    assert look() == []


def test_a_shard_is_asked_for_again_when_what_its_pass_needs_has_changed(corpus, home, instance):
    """Dagster repeats no run key: what fails is not repeated for ever, and yet gets its chance."""
    experiment = pico_experiment(corpus)
    watching = Watching(experiment, home, instance)
    watching.look()
    first, _ = watching.look()
    assert watching.look()[0] == first
    # The pass was broken off between its two steps.
    make_one(home.lineage(experiment), "raw_pile_shard", "00")
    second, _ = watching.look()
    assert {key for key in first if second[key] != first[key]} == {"00"}
    assert watching.look()[0] == second
    # While a pass over it is under way, what that changes is no reason for another.
    tags = {"dagster/partition": "00"}
    run = instance.add_run(
        dg.DagsterRun("pass_over_shard", status=dg.DagsterRunStatus.STARTED, tags=tags)
    )
    assert set(second) - set(watching.look()[0]) == {"00"}
    instance.report_run_failed(run)
    assert watching.look()[0] == second
    fewer = pico_experiment(corpus, domains=PICO["domains"][:-1])
    changed = Watching(fewer, home, instance)
    changed.look()
    third, _ = changed.look()
    assert third["00"] not in (first["00"], second["00"])


def test_no_shard_is_asked_for_before_there_are_clusters_to_route_to(corpus, home, instance):
    experiment = pico_experiment(corpus, domains={"clusters": 3}, merges={})
    lineage = home.lineage(experiment)
    watching = Watching(experiment, home, instance)
    watching.look()
    requests, told = watching.look()
    assert requests == {}
    assert told == (
        "Documents without labels are routed by corpus_clusters, which was never made: materialize "
        "raw_pile_shard '00' and corpus_clusters first."
    )
    make_one(lineage, "raw_pile_shard", "00")
    make_one(lineage, "corpus_clusters")
    requests, _ = watching.look()
    assert {"00", "01", "test", "val"} == set(requests)
