"""The forecast in the line: before the experts, only where it is asked for, and on its page."""

import json

import dagster as dg
import pytest

from mdel_assets.defs.graph import build_definitions
from mdel_assets.errors import ExperimentError
from mdel_assets.experiment.loading import bundled_experiments, load_experiment
from mdel_assets.forecasting.features import Probes
from mdel_assets.forecasting.markdown import forecast_markdown
from mdel_assets.forecasting.model import Prediction, fitted_text
from mdel_assets.forecasting.steps import read_probes
from mdel_assets.home import MdelHome
from mdel_assets.store.digests import text_digest
from mdel_assets.training.sizes import Sizes
from mdel_assets_tests.conftest import PICO, branch, pico_experiment

# One step of 16 is a sixteenth; an expert of 48 steps has probes of two.
TRAINING = {**PICO["training"], "num_tokens": 48 * 128}


@pytest.fixture(scope="module")
def forecast(corpus, tmp_path_factory):
    """The pico line up to its forecast, made by Dagster: lineage, and what its pages show."""
    experiment = pico_experiment(corpus, forecast={}, training=TRAINING)
    home = MdelHome(tmp_path_factory.mktemp("forecast"))
    branch(experiment, home)
    definitions = build_definitions(experiment, home)
    with dg.DagsterInstance.ephemeral() as instance:
        done = dg.materialize(
            [a for a in definitions.assets if isinstance(a, dg.AssetsDefinition)],
            selection=["forecast_probes", "merge_forecast"],
            instance=instance,
            resources=definitions.resources,
        )
    pages = {
        event.asset_key.path[-1]: event.event_specific_data.materialization.metadata
        for event in done.get_asset_materialization_events()
    }
    return home.lineage(experiment), pages


def test_it_comes_before_the_experts_and_needs_none(forecast):
    lineage, _ = forecast
    kinds = lineage.kinds()
    assert kinds.index("seed_model") < kinds.index("forecast_probes")
    assert kinds.index("merge_forecast") < kinds.index("expert_model")
    assert lineage.current("merge_forecast")
    assert lineage.artifact("expert_model", "github").read_record() is None


def test_its_page_begins_with_the_sentence(forecast):
    lineage, pages = forecast
    record = lineage.artifact("merge_forecast").require()
    told = pages["merge_forecast"]["forecast"].value
    assert told.startswith(f"**{record.details['advice']}**")
    assert pages["merge_forecast"]["advice"].value == record.details["advice"]
    written = json.loads((lineage.folder("merge_forecast") / "forecast.json").read_text())
    assert written["features"] == read_probes(lineage).features()
    assert pages["forecast_probes"]["num_tokens"].value == 3 * 2 * 128


def test_the_probes_models_are_not_kept_and_cost_little(forecast):
    lineage, _ = forecast
    probes = read_probes(lineage)
    assert probes.num_steps == 2
    assert probes.cost == 2 / 48
    assert "model.safetensors" not in {p.name for p in lineage.folder("forecast_probes").iterdir()}
    assert not list(lineage.root.rglob("probe.json"))


def test_its_price_is_that_of_all_probes(forecast):
    lineage, _ = forecast
    kinds = lineage.registry
    sizes = Sizes(lineage)
    probes = kinds["forecast_probes"].price(sizes, "")
    expert = kinds["expert_model"].price(sizes, "github")
    assert probes.num_tokens == 3 * 2 * 128
    assert expert.num_tokens == 48 * 128
    # Probes' trainings, and the losses of six models on three domains.
    assert probes.operations > 3 * expert.operations * 2 / 48


def test_other_settings_leave_the_probes_as_they_are(forecast, corpus):
    lineage, _ = forecast
    home = MdelHome(lineage.root.parent)

    def stale(**changes):
        other = pico_experiment(corpus, **{"forecast": {}, "training": TRAINING} | changes)
        return home.lineage(other).stale("forecast_probes")

    assert stale(merges={}) is None
    assert stale(training={**TRAINING, "store": "delta"}) is None
    assert stale(training={**TRAINING, "learning_rate": 1e-3}) is not None
    assert stale(forecast={"probe_share": 0.03}) is not None


def test_a_new_fit_remakes_the_forecast_and_not_the_probes(forecast):
    lineage, _ = forecast
    assert lineage.identity("merge_forecast").config == {"fitted": text_digest(fitted_text())}
    assert "fitted" not in lineage.identity("forecast_probes").config


def test_no_bundled_experiment_has_a_forecast_it_did_not_ask_for(home):
    for name in bundled_experiments():
        kinds = home.lineage(load_experiment(name)).kinds()
        assert not {"forecast_probes", "merge_forecast"} & set(kinds)


def test_probes_of_more_than_six_percent_are_refused(corpus):
    with pytest.raises(ExperimentError, match=r"forecast.probe_share: expected 0.06 or less"):
        pico_experiment(corpus, forecast={"probe_share": 0.07})


def test_the_page_shows_gains_and_falls():
    losses = {"a": 2.0, "b": 4.0}
    probes = Probes(
        num_steps=3,
        num_tokens=60,
        num_expert_tokens=1000,
        num_weights=500,
        seed_losses=losses,
        probe_losses={"a": {"a": 1.0, "b": 5.0}, "b": {"a": 2.2, "b": 3.0}},
        half_losses={"a": 1.9, "b": 3.9},
        whole_losses={"a": 1.8, "b": 3.8},
        lengths={"a": 0.1, "b": 0.3},
        cosines={"a": {"b": 0.5}, "b": {"a": 0.5}},
    )
    told = forecast_markdown(probes, {"ensemble": Prediction(1.25, 0.5, 2.0)}, trust="Hardly.")
    assert "Hardly." in told
    assert "| ensemble | +1.25 % | +0.50 to +2.00 % |" in told
    assert "2 probes read 60 tokens in up to 3 steps each: 6.0% of what" in told
    assert "| probe of a | +50.00 | -25.00 |" in told
    assert "| their mean | +10.00 | +5.00 |" in told
    assert "| own divergence | 37.5 |" in told
    assert "| other divergence | -17.5 |" in told
