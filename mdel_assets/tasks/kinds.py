"""The kinds of artifact that judge models by tasks of lm-evaluation-harness."""

from collections.abc import Sequence
from typing import Any

from mdel_assets.evaluation.kinds import absent_models, models
from mdel_assets.experiment.experiment import Experiment
from mdel_assets.line.kind import Input, Kind, model_input
from mdel_assets.line.lineage import Lineage
from mdel_assets.merging.kinds import KINDS as MERGED
from mdel_assets.tasks import prices, steps
from mdel_assets.tasks.bundled_tasks import harness_version
from mdel_assets.tasks.own_tasks import definition_digest, own_tasks_of
from mdel_assets.training.kinds import KINDS as TRAINED

_MODELS = (*TRAINED, *MERGED)


def _are_named(experiment: Experiment) -> bool:
    return bool(experiment.evaluation.tasks)


def _model(experiment: Experiment, key: str) -> list[Input]:
    return [model_input(_MODELS, key)]


def _results_and_reports(experiment: Experiment, key: str) -> list[Input]:
    kinds = ("task_report", "perplexity_report")
    return [Input(kind, model) for kind in kinds for model in models(experiment)]


def _reported(lineage: Lineage, inputs: Sequence[Input]) -> list[Input]:
    """Leave out models without results of tasks, and reports that were not made."""
    with_results = set(steps.reported(lineage))
    return [
        entry
        for entry in inputs
        if entry.key in with_results and lineage.artifact(*entry).is_made()
    ]


def _comparing(lineage: Lineage, key: str) -> dict[str, Any]:
    evaluation = lineage.experiment.evaluation
    return {"tasks": list(evaluation.tasks), "split": evaluation.splits[0]}


def _running(lineage: Lineage, key: str) -> dict[str, Any]:
    """Return what tasks are made of: own ones by their content, others by the harness's version."""
    evaluation, own = lineage.experiment.evaluation, own_tasks_of(lineage.experiment)
    return {
        **evaluation.made_of({"dtype", "seed", "task_documents", "num_fewshot"}),
        "harness": harness_version(),
        "tasks": {name: definition_digest(name, own) for name in evaluation.tasks},
    }


KINDS = (
    Kind(
        "task_report",
        place="tasks/{key}",
        code_version="1",
        keys=models,
        is_in=_are_named,
        absent=absent_models,
        inputs=_model,
        config=_running,
        write_together=steps.run_tasks,
        price=prices.of_results,
        is_report=True,
        is_heavy=True,
    ),
    Kind(
        "task_matrix",
        place="reports",
        record="tasks",
        code_version="1",
        is_in=_are_named,
        inputs=_results_and_reports,
        takes=_reported,
        takes_what_is_there=True,
        config=_comparing,
        write=steps.compare_tasks,
        price=prices.of_table,
        is_report=True,
        follows_inputs=True,
    ),
)
