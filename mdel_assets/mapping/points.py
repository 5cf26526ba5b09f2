"""The points that forecasts are fitted on: settings of a map whose probes were measured."""

from collections.abc import Sequence
from pathlib import Path

from mdel_assets.evaluation.outcomes import ENSEMBLE, MEAN, MIXTURE, SEARCH, Outcome
from mdel_assets.experiment.families import ExperimentFamily
from mdel_assets.experiment.loading import load_experiment
from mdel_assets.forecasting.judgement import Judgement, judge, judgement_markdown
from mdel_assets.forecasting.model import FITTED_NAME, Fitted, Point, fit
from mdel_assets.forecasting.steps import read_probes
from mdel_assets.home import MdelHome
from mdel_assets.store.durable_files import write_text_atomically

FORECAST = (ENSEMBLE, MEAN, SEARCH, MIXTURE)
JUDGEMENT_NAME = "forecasts.md"


def points_of(family: ExperimentFamily, home: MdelHome, outcomes: Sequence[Outcome]) -> list[Point]:
    """Return the points of those settings that have both an outcome and measured probes."""
    found = []
    names = family.experiment_names()
    for outcome in outcomes:
        lineage = home.lineage(load_experiment(names[outcome.setting.name]))
        if "forecast_probes" not in lineage.kinds() or not lineage.current("forecast_probes"):
            continue
        gains = {name: outcome.gain(name) for name in FORECAST}
        experts = {
            "divergence": outcome.divergence,
            "gain_over_best_expert": outcome.gain_over_best_expert,
        }
        found.append(
            Point(
                outcome.setting.name,
                read_probes(lineage).features(),
                {name: gain for name, gain in gains.items() if gain is not None},
                experts,
            )
        )
    return found


def fit_family(
    family: ExperimentFamily, home: MdelHome, outcomes: Sequence[Outcome], folder: Path
) -> tuple[Fitted, Judgement | None]:
    """Fit forecasts on the points of a map; write the fit, and how good it is, into ``folder``."""
    points = points_of(family, home, outcomes)
    fitted, judgement = fit(family.name, points, FORECAST), judge(points, FORECAST)
    write_text_atomically(folder / FITTED_NAME, fitted.text())
    write_text_atomically(folder / JUDGEMENT_NAME, judgement_markdown(judgement))
    return fitted, judgement
