"""A sweep over ways to train an expert: its models in the matrix, its report, its refusals."""

import shutil

import dagster as dg
import pyarrow.parquet as pq
import pytest
from safetensors.torch import load_file

from mdel_assets.defs.launch import run_line
from mdel_assets.errors import ExperimentError
from mdel_assets.evaluation.steps import read_matrix
from mdel_assets.home import MdelHome
from mdel_assets_tests.conftest import pico_experiment

VARIANTS = {
    "last": {"domain": "arxiv", "training": {"trained_layers": [2]}},
    "pure": {"domain": "arxiv", "text": "domain"},
    "short": {"domain": "freelaw", "training": {"max_steps": 3}},
    "nothing": {"domain": "enron"},
}


@pytest.fixture(scope="module")
def swept(finished, corpus, tmp_path_factory):
    """The finished line with variants added: (experiment, home, outcomes of the second run)."""
    home = MdelHome(tmp_path_factory.mktemp("swept") / "home")
    shutil.copytree(finished[1].root, home.root)
    experiment = pico_experiment(corpus, variants=VARIANTS)
    with dg.DagsterInstance.ephemeral() as instance:
        outcomes = list(run_line(experiment, home, instance=instance))
    return experiment, home, outcomes


def test_variants_are_added_to_a_finished_line_and_nothing_is_trained_again(swept):
    made = [(o.kind, key) for o in swept[2] if o.state == "made" for key in o.keys]
    assert {o.state for o in swept[2]} == {"made", "up to date"}
    assert [key for kind, key in made if kind == "variant_expert"] == ["last", "pure", "short"]
    assert not {"expert_model", "seed_model", "dense_baseline"} & {kind for kind, _ in made}
    assert ("sweep_report", "") in made


def test_a_variant_differs_from_the_expert_in_what_it_names(swept):
    store = swept[1].lineage(swept[0])
    details = {
        name: store.artifact("variant_expert", name).require().details
        for name in ("last", "pure", "short")
    }
    assert details["last"]["trained_layers"] == [2]
    assert details["short"]["history"]["num_steps"] == 3
    seed = load_file(store.folder("seed_model") / "model.safetensors")
    last = load_file(store.folder("variant_expert", "last") / "model.safetensors")
    changed = {name for name in seed if not seed[name].equal(last[name])}
    assert changed
    assert all(".layers.2." in name for name in changed)
    # All of its tokens are the domain's: it learns that better, and general text less well.
    expert = store.artifact("expert_model", "arxiv").require().details["losses_after"]
    pure = details["pure"]["losses_after"]
    assert pure["validation_domain"] < expert["validation_domain"]
    assert pure["validation_pile"] > expert["validation_pile"]


def test_the_sweep_says_what_each_variant_changes_on_its_own_domain(swept):
    lineage = swept[1].lineage(swept[0])
    rows = pq.read_table(lineage.folder("sweep_report") / "sweep.parquet").to_pylist()
    models = list(dict.fromkeys(row["model"] for row in rows))
    assert models == [
        "expert-arxiv",
        "variant-last",
        "variant-pure",
        "expert-freelaw",
        "variant-short",
    ]
    matrix = read_matrix(lineage)
    for row in rows:
        place = (row["domain"], row["split"])
        change = matrix.bits[(row["model"], *place)] - matrix.bits[("seed", *place)]
        assert row["change_from_seed"] == pytest.approx(change)
        assert row["change_from_seed_low"] <= change <= row["change_from_seed_high"]
    page = (lineage.folder("sweep_report") / "sweep.md").read_text()
    assert "| variant-last |" in page
    assert "variant-last" in {model for model, _, _ in matrix.bits}


@pytest.mark.parametrize(
    ("variant", "message"),
    [
        ({"domain": "arxv"}, "Did you mean 'arxiv'"),
        ({"domain": "arxiv", "training": {"learning_rat": 1}}, "Did you mean 'learning_rate'"),
        (
            {"domain": "arxiv", "training": {"learning_rate": -1}},
            "learning_rate: expected more than 0, got -1",
        ),
        ({"domain": "arxiv", "training": {"max_steps": 1, "num_epochs": 2}}, "give one of"),
        ({"domain": "arxiv", "text": "both"}, "expected one of mixture, domain"),
    ],
)
def test_a_variant_that_cannot_be_is_refused_with_the_key(corpus, variant, message):
    with pytest.raises(ExperimentError, match="variants") as raised:
        pico_experiment(corpus, variants={"one": variant})
    assert message in str(raised.value)
