"""An experiment trained twice: what a run adds, what that equals, and what the reports say."""

import shutil

import dagster as dg
import pyarrow.parquet as pq
import pytest

from mdel_assets.defs import columns
from mdel_assets.defs.compute import Compute
from mdel_assets.defs.graph import build_definitions
from mdel_assets.defs.launch import run_line
from mdel_assets.evaluation.steps import read_matrix
from mdel_assets.home import MdelHome
from mdel_assets.line.making import make_one
from mdel_assets.line.replicates import replicates_of
from mdel_assets.line.what_is_stale import report_kinds, what_is_stale
from mdel_assets.maintenance.forgetting import plan_forgetting
from mdel_assets_tests.conftest import PICO, pico_experiment
from mdel_assets_tests.defs.finished_line import MODELS, materialize


@pytest.fixture(scope="module")
def twice(finished, corpus, tmp_path_factory):
    """The finished line with a second replicate: (experiment, home, outcomes of that run)."""
    home = MdelHome(tmp_path_factory.mktemp("twice") / "home")
    shutil.copytree(finished[1].root, home.root)
    experiment = pico_experiment(corpus, replicates=2)
    with dg.DagsterInstance.ephemeral() as instance:
        outcomes = list(run_line(experiment, home, instance=instance))
    return experiment, home, outcomes


def test_a_second_replicate_is_added_and_the_first_is_not_trained_again(twice):
    experiment, home, outcomes = twice
    assert {o.state for o in outcomes} == {"made", "up to date"}
    made = {o.kind: o.keys for o in outcomes if o.state == "made"}
    assert made["seed_model_replicate"] == ("2",)
    assert made["expert_model_replicate"] == ("github@2", "arxiv@2", "freelaw@2")
    assert made["token_scores_replicate"] == tuple(f"{model}@2" for model in MODELS)
    reports = {"perplexity_matrix", "ensemble_report", "experiment_report"}
    assert {kind for kind in made if not kind.endswith("_replicate")} == reports
    assert what_is_stale(home.lineage(experiment)).found == []


def test_a_replicate_is_what_the_same_experiment_with_another_seed_is(twice, corpus, tmp_path):
    home, other = twice[1], MdelHome(tmp_path / "home")
    for folder in ("shards", "documents", "datasets"):
        if (home.root / "pico" / folder).exists():
            shutil.copytree(home.root / "pico" / folder, other.root / "pico" / folder)
    pretrain = PICO["seed_model"]["pretrain"] | {"seed": 1}
    training = PICO["training"] | {"seed": 1}
    experiment = pico_experiment(corpus, seed_model={"pretrain": pretrain}, training=training)
    alone, second = other.lineage(experiment), replicates_of(home.lineage(twice[0]))[1]
    for kind, key in (("seed_model", ""), ("expert_model", "github"), ("dense_baseline", "")):
        make_one(alone, kind, key)
        weights = [one.folder(kind, key) / "model.safetensors" for one in (alone, second)]
        assert weights[0].read_bytes() == weights[1].read_bytes()
        first = home.lineage(twice[0]).folder(kind, key) / "model.safetensors"
        assert weights[1].read_bytes() != first.read_bytes()


def test_the_matrix_has_one_row_for_a_model_and_its_mean(twice):
    experiment, home, _ = twice
    lineage = home.lineage(experiment)
    matrix = read_matrix(lineage)
    assert matrix.models == MODELS
    assert matrix.missing == []
    table = pq.read_table(lineage.folder("perplexity_matrix") / "perplexity.parquet")
    described = columns.of_trainings(columns.PERPLEXITY_MATRIX, replicates=2).columns
    assert {column.name for column in described} == set(table.column_names)
    found = table.to_pylist()
    assert {row["num_trainings"] for row in found} == {2}
    for row in found:
        reports = [
            one.artifact("perplexity_report", row["model"]) for one in replicates_of(lineage)
        ]
        place = (row["dataset"], row["split"])
        bits = [
            own["bits_per_byte"]
            for report in reports
            for own in report.require().details["rows"]
            if (own["dataset"], own["split"]) == place
        ]
        assert bits[0] != bits[1]
        assert row["bits_per_byte"] == pytest.approx(sum(bits) / 2)


def test_ensembles_are_of_the_experts_of_each_replicate(twice):
    lineage = twice[1].lineage(twice[0])
    folder = lineage.folder("ensemble_report")
    rows = pq.read_table(folder / "ensemble.parquet").to_pylist()
    posterior = [row for row in rows if row["model"] == "ensemble-posterior-all"]
    assert {row["num_trainings"] for row in posterior} == {2}
    told = (folder / "ensemble.md").read_text("utf-8")
    assert "with the 95 % interval\nover documents and 2 trainings." in told


def test_before_all_are_scored_the_matrix_is_of_those_that_are(twice, tmp_path):
    experiment, home = twice[0], MdelHome(tmp_path / "home")
    shutil.copytree(twice[1].root, home.root)
    lineage = home.lineage(experiment)
    scores = lineage.artifact("token_scores_replicate", "dense@2")
    shutil.rmtree(scores.folder)
    shutil.rmtree(lineage.artifact("perplexity_report_replicate", "dense@2").folder)
    matrix = read_matrix(lineage)
    assert "dense@2 has no report" in matrix.missing
    assert "Of fewer trainings: `dense` 1." in matrix.intervals_in_words
    stale = [(entry.kind, entry.key) for entry in what_is_stale(lineage).found]
    assert ("token_scores_replicate", "dense@2") in stale
    # Schedules make reports of the line alone, and ensembles need all scores.
    assert "perplexity_matrix" in report_kinds(lineage)
    assert "ensemble_report" not in report_kinds(lineage)


def test_a_replicate_can_be_asked_for_alone(twice, tmp_path):
    experiment, home = twice[0], MdelHome(tmp_path / "home")
    shutil.copytree(twice[1].root, home.root)
    artifact = home.lineage(experiment).artifact("random_split_expert_replicate", "3@2")
    before = artifact.require()
    shutil.rmtree(artifact.folder)
    materialize(experiment, home, "random_split_expert_replicate", "3@2")
    assert artifact.require() == before


def test_forgetting_a_domain_names_the_replicates_that_read_it(twice):
    experiment, home, _ = twice
    plan = plan_forgetting(home, home.lineage(experiment), "arxiv")
    labels = {entry.found.artifact.label for entry in plan.derived}
    assert {"expert_model_replicate 'arxiv@2'", "dense_baseline_replicate '2'"} <= labels
    assert "token_scores_replicate 'merged-mean-all@2'" in labels


def test_replicates_are_made_where_the_line_is():
    jobs = Compute(engine="slurm", slurm={"time_limit_minutes": 60}, kinds={"token_scores": {}})
    for kind in ("seed_model", "expert_model", "dense_baseline", "token_scores"):
        assert jobs.place_of(f"{kind}_replicate") == jobs.place_of(kind)
        assert jobs.place_of(kind).engine == "slurm"
    assert jobs.place_of("merged_model_replicate").engine == "local"


def test_one_replicate_adds_nothing_to_the_graph(corpus, home):
    graph = build_definitions(pico_experiment(corpus), home).resolve_asset_graph()
    assert not [key for key in graph.get_all_asset_keys() if "replicate" in key.path[-1]]
