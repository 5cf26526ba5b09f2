"""Mixtures of experts through Dagster: made, checked, scored, ranked, killed."""

import signal

import dagster as dg
import pyarrow.parquet as pq
import pytest

from mdel_assets.defs.launch import run_line
from mdel_assets.home import MdelHome
from mdel_assets.line.making import make_one
from mdel_assets.store.artifacts import MAKING_NAME
from mdel_assets_tests import warm_python
from mdel_assets_tests.defs.finished_line import materialize
from mdel_assets_tests.defs.running_dagster import environment
from mdel_assets_tests.merging.mixtures.folders import load
from mdel_assets_tests.merging.mixtures.mixable import experiment_of, home_with_experts
from mdel_assets_tests.waiting import wait_until

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


def files(folder):
    """Return the bytes of a model's files; how long it took is told beside them."""
    return {p.name: p.read_bytes() for p in folder.iterdir() if p.name != MAKING_NAME}


@pytest.mark.parametrize(
    ("recipe", "sign"),
    [
        # While much text is read for the gates; while the gates of what is built are trained.
        ({"router_tokens": 10**6}, "*"),
        ({"router": "trained", "training": {"num_steps": 100}}, "*/model.safetensors"),
    ],
    ids=["domains", "trained"],
)
def test_a_mixture_that_is_killed_leaves_nothing_and_is_made_in_the_same_bytes_again(
    recipe, sign, corpus, tmp_path_factory, tmp_path
):
    experiment = experiment_of(corpus, small=recipe)
    homes = [MdelHome(home_with_experts(corpus, tmp_path_factory)) for _ in range(2)]
    whole, killed = (home.lineage(experiment) for home in homes)
    make_one(whole, "moe_model", "small")
    options = {"env": environment(experiment, homes[1], tmp_path), "cwd": tmp_path}
    words = [*warm_python.MDEL, "run", "--until", "moe_model"]
    final = killed.folder("moe_model", "small")
    with warm_python.start(words, **options) as process:
        wait_until(lambda: process.poll() is not None or any(final.parent.glob(sign)), every=0.005)
        process.kill()
    assert process.returncode == -signal.SIGKILL
    assert not final.exists()
    warm_python.run(words, check=True, **options)
    assert [path.name for path in final.parent.iterdir()] == ["small"]
    assert files(final) == files(whole.folder("moe_model", "small"))
    load(final)
