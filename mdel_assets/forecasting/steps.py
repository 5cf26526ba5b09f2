"""The steps of the forecast: each writes one kind of artifact."""

import dataclasses
import json

from mdel_assets.forecasting.advice import advice
from mdel_assets.forecasting.features import Probes
from mdel_assets.forecasting.judgement import judge, trust
from mdel_assets.forecasting.markdown import forecast_markdown
from mdel_assets.forecasting.model import Fitted, as_json, fitted_text
from mdel_assets.line.kind import Task, Written
from mdel_assets.line.lineage import Lineage

PROBES_NAME, MARKDOWN_NAME, JSON_NAME = "probes.json", "forecast.md", "forecast.json"


def train_probes(task: Task) -> Written:
    """Train and measure the probes; only what was measured is kept."""
    from mdel_assets.forecasting.probes import measure_probes

    lineage, experiment = task.lineage, task.lineage.experiment
    assert experiment.forecast
    probes = measure_probes(
        experiment.training,
        probe=experiment.forecast.probe_training(experiment.training),
        seed_folder=lineage.folder("seed_model"),
        datasets={d: lineage.folder("domain_dataset", d) for d in lineage.present_domains()},
        work_folder=task.work_folder,
        conditions=task.conditions,
    )
    details = dataclasses.asdict(probes)
    (task.folder / PROBES_NAME).write_text(json.dumps(details, indent=2) + "\n", "utf-8")
    return Written(counts={"num_tokens": probes.num_tokens}, details=details)


def read_probes(lineage: Lineage) -> Probes:
    """Return what the probes measured.

    Raises:
        MissingArtifactError: they were never trained.

    """
    return Probes.of(lineage.artifact("forecast_probes").require().details)


def make_forecast(task: Task) -> Written:
    """Predict the gains over `dense` from the probes, and say what to train."""
    probes = read_probes(task.lineage)
    fitted = Fitted.parse(fitted_text())
    predictions = fitted.predict(probes.features())
    told_of_map = trust(judge(fitted.points, list(fitted.lines)))
    content = {
        "advice": advice(predictions),
        "predictions": as_json(predictions),
        "features": probes.features(),
        "trust": told_of_map,
    }
    (task.folder / JSON_NAME).write_text(json.dumps(content, indent=2) + "\n", "utf-8")
    told = forecast_markdown(probes, predictions, trust=told_of_map)
    (task.folder / MARKDOWN_NAME).write_text(told, "utf-8")
    return Written(details=content)
