"""The forecast as the page shows it: what was foretold before the experts, and what came of it."""

import dataclasses
from collections.abc import Sequence

from mdel_assets.errors import MdelError
from mdel_assets.evaluation.outcomes import read_outcome
from mdel_assets.forecasting.model import predictions_of
from mdel_assets.line.kind import Input
from mdel_assets.line.lineage import Lineage
from mdel_assets.reporting.made_of import Records


@dataclasses.dataclass(frozen=True)
class ForecastRow:
    """A contender's gain over `dense` in percent: foretold with its interval, and measured.

    ``measured`` is None where the experiment has no such contender, or no `dense`.
    """

    contender: str
    gain: float
    low: float
    high: float
    measured: float | None


@dataclasses.dataclass(frozen=True)
class Foretold:
    """The sentence, the gains behind it, and how far such forecasts are to be trusted."""

    advice: str
    rows: Sequence[ForecastRow]
    trust: str


def foretold_of(lineage: Lineage, records: Records) -> Foretold | None:
    """Return the forecast; None where the experiment asks for none."""
    if (record := records.get(Input("merge_forecast"))) is None:
        return None
    measured = _measured(lineage)
    rows = [
        ForecastRow(name, found.gain, found.low, found.high, measured.get(name))
        for name, found in predictions_of(record.details).items()
    ]
    return Foretold(record.details["advice"], rows, record.details["trust"])


def _measured(lineage: Lineage) -> dict[str, float | None]:
    if "ensemble_report" not in lineage.kinds() or not lineage.experiment.baselines.dense:
        return {}
    try:
        outcome = read_outcome(lineage, lineage.experiment.name)
    except MdelError:
        return {}
    return {name: outcome.gain(name) for name in outcome.changes}
