"""Every kind has a price, and every artifact of experiments with all kinds has one, too."""

import pytest

from mdel_assets.kinds import KINDS
from mdel_assets.planning.plan import prices_of
from mdel_assets.planning.planned import plan_run
from mdel_assets.planning.table import plan_lines
from mdel_assets.planning.wanted import keys_of
from mdel_assets.training.sizes import Sizes
from mdel_assets_tests.conftest import PICO, pico_experiment
from mdel_assets_tests.defs.line_of_jobs import SEARCHED
from mdel_assets_tests.merging.mixtures.mixable import CHANGES
from mdel_assets_tests.planning.test_plan import ONE_TERAFLOP
from mdel_assets_tests.tasks.written_tasks import CHOICE, LAST_WORD, write_tasks

# Kinds without a price, each with the reason.
WITHOUT_PRICE: dict[str, str] = {}


def with_everything(corpus, other, tasks, **changes):
    """Return the pico experiment with references, tasks, mixtures, variants and a forecast."""
    evaluation = PICO["evaluation"] | {
        "references": {"other": {"path": str(other)}},
        "tasks": [CHOICE, LAST_WORD],
        "tasks_folder": str(tasks),
    }
    everything = {
        "evaluation": evaluation,
        "replicates": 2,
        "baselines": {"random_split": True},
        "mixtures": {
            "own": {},
            "learned": {"router": "trained", "training": {"num_steps": 3}},
        },
        "forecast": {},
        "merges": {
            "mean-all": {"merge_method": "linear", "models": [{"model": "expert:*"}]},
            "searched": SEARCHED,
        },
    }
    return pico_experiment(corpus, **{**CHANGES, **everything, **changes})


def test_every_kind_has_a_price_or_a_reason():
    without = {kind.name for kind in KINDS if kind.price is None}
    assert without == set(WITHOUT_PRICE)


def test_every_artifact_of_an_experiment_with_all_kinds_has_a_price(
    corpus, home, make_model, tmp_path
):
    tasks = write_tasks(tmp_path / "tasks")
    other = make_model("llama")
    labelled = with_everything(corpus, other, tasks, variants=variants())
    found = {"domains": {"clusters": 3}, "merges": {}, "name": "clustered"}
    clustered = with_everything(corpus, other, tasks, **found)
    seen = set()
    for experiment in (labelled, clustered):
        lineage = home.lineage(experiment)
        sizes = Sizes(lineage)
        for kind in KINDS:
            if not kind.is_in(experiment):
                continue
            keys = keys_of(sizes, kind)
            priced, why = prices_of(sizes, kind, keys)
            assert (list(priced), why) == (keys, "")
            assert all(price.disk_bytes > 0 for price in priced.values())
            seen.add(kind.name)
        plan = plan_run(lineage, device=ONE_TERAFLOP)
        assert plan.not_priced == []
        assert not [line for line in plan_lines(plan) if "ot priced" in line]
        assert "repositories, in about" in " ".join(plan.notes)
    assert seen == {kind.name for kind in KINDS} - set(WITHOUT_PRICE)


@pytest.mark.parametrize("device", [None, ONE_TERAFLOP])
def test_a_seed_of_unknown_size_leaves_a_plan_with_what_is_known(
    corpus, home, make_model, monkeypatch, device
):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    references = {name: {"path": str(make_model("llama"))} for name in ("one", "two")}
    experiment = pico_experiment(
        corpus,
        seed_model={"path": "nobody/nothing"},
        evaluation=PICO["evaluation"] | {"references": references},
    )
    plan = plan_run(home.lineage(experiment), device=device)
    (scores,) = [stage for stage in plan.stages if stage.kind == "token_scores"]
    assert scores.operations > 0
    assert "seed" in scores.not_priced
    assert "reference-one" not in scores.not_priced
    assert any("nobody/nothing" in note for note in plan.notes)


def variants():
    return {"low": {"domain": "github", "training": {"learning_rate": 1.0e-3}}}
