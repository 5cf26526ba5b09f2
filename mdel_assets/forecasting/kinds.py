"""The kinds of artifact that predict what experts will be worth."""

from collections.abc import Collection, Sequence
from typing import Any

from mdel_assets.data.kinds import datasets
from mdel_assets.experiment.experiment import Experiment
from mdel_assets.experiment.fields import WATCHING_FIELDS
from mdel_assets.forecasting import prices, steps
from mdel_assets.forecasting.model import fitted_text
from mdel_assets.line.kind import Input, Kind
from mdel_assets.line.lineage import Lineage, with_text
from mdel_assets.store.digests import text_digest
from mdel_assets.training.kinds import SEED


def _has_forecast(experiment: Experiment) -> bool:
    return experiment.forecast is not None and len(experiment.domain_keys) > 1


def _without_two(experiment: Experiment, domains: Collection[str]) -> dict[str, str]:
    if len(experiment.domain_keys) - len(domains) > 1:
        return {}
    return {"": "absent: fewer than two domains have training documents, nothing to branch"}


def _seed_and_datasets(experiment: Experiment, key: str) -> list[Input]:
    return [SEED, *datasets(experiment)]


def _probes(experiment: Experiment, key: str) -> Sequence[Input]:
    return [Input("forecast_probes")]


def _probing(lineage: Lineage, key: str) -> dict[str, Any]:
    forecast, training = lineage.experiment.forecast, lineage.experiment.training
    assert forecast
    return training.made_of(exclude={*WATCHING_FIELDS, "store"}) | forecast.made_of()


def _fitted(lineage: Lineage, key: str) -> dict[str, Any]:
    return {"fitted": text_digest(fitted_text())}


KINDS = (
    Kind(
        "forecast_probes",
        place="probes",
        code_version="1",
        is_in=_has_forecast,
        absent=_without_two,
        inputs=_seed_and_datasets,
        takes=with_text,
        config=_probing,
        write=steps.train_probes,
        price=prices.of_probes,
        is_heavy=True,
        resumes=True,
    ),
    Kind(
        "merge_forecast",
        place="forecast",
        code_version="1",
        is_in=_has_forecast,
        absent=_without_two,
        inputs=_probes,
        config=_fitted,
        write=steps.make_forecast,
        price=prices.of_forecast,
        follows_inputs=True,
    ),
)
