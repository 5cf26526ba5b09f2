"""Mixtures of experts through Dagster: made, checked, scored, ranked."""

import dagster as dg
import pyarrow.parquet as pq
import pytest

from mdel_assets.defs.launch import run_line
from mdel_assets.home import MdelHome
from mdel_assets_tests.defs.finished_line import materialize
from mdel_assets_tests.merging.mixtures.mixable import experiment_of

MIXTURES = {"own": {}, "learned": {"router": "trained", "training": {"num_steps": 3}}}


@pytest.fixture(scope="module")
def mixed(corpus, tmp_path_factory):
    """A line with two mixtures, run to its end: (experiment, home, outcomes)."""
    experiment, home = experiment_of(corpus, **MIXTURES), MdelHome(tmp_path_factory.mktemp("mixed"))
    with dg.DagsterInstance.ephemeral() as instance:
        outcomes = list(run_line(experiment, home, instance=instance))
    return experiment, home, outcomes


def test_mixtures_are_made_scored_and_ranked(mixed):
    experiment, home, outcomes = mixed
    made = {(o.kind, o.key) for o in outcomes if o.state == "made"}
    for name in MIXTURES:
        assert ("moe_model", name) in made, [o.message for o in outcomes]
    reports = home.root / "pico" / "reports"
    models = pq.read_table(reports / "perplexity.parquet").column("model").to_pylist()
    assert {"mixture-own", "mixture-learned"} <= set(models)
    page = (reports / "perplexity.md").read_text()
    assert "`mixture-own`: A token goes through 2 of 3 experts in each of 2 mixture layers" in page
    assert "`mixture-learned` on average over domains:" in page
    assert "mixture-own" in (reports / "ensemble.md").read_text()
    with dg.DagsterInstance.ephemeral() as instance:
        assert {o.state for o in run_line(experiment, home, instance=instance)} == {"up to date"}


def test_the_asset_shows_its_card_and_its_check_passes(mixed):
    experiment, home, _ = mixed
    result = materialize(experiment, home, "moe_model", "learned")
    assert result.success
    (evaluation,) = result.get_asset_check_evaluations()
    assert (evaluation.check_name, evaluation.passed) == ("tensors_finite", True)
    (shown,) = result.asset_materializations_for_node("moe_model")
    metadata = {name: value.value for name, value in shown.metadata.items()}
    assert metadata["experts"] == "expert-github, expert-arxiv, expert-freelaw"
    assert metadata["router"] == "trained"
    assert 0 < metadata["num_active_parameters"] < metadata["num_parameters"]
    assert "weights are active" in metadata["card"]
