"""The steps that run tasks on models and compare the results; `kinds.py` declares them."""

import json
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from mdel_assets.errors import ArtifactError, MdelError, TaskError
from mdel_assets.line.kind import Task, Written
from mdel_assets.line.lineage import Lineage
from mdel_assets.scoring.report_rows import rows_of
from mdel_assets.tasks.bundled_tasks import NOT_INSTALLED, harness_version
from mdel_assets.tasks.own_tasks import own_tasks_of
from mdel_assets.tasks.results import TaskResult, read_results, write_results

if TYPE_CHECKING:
    from mdel_assets.tasks.harness import Harness

TABLE_NAME = "tasks"


def run_tasks(tasks: Mapping[str, Task]) -> Iterator[tuple[str, Written | MdelError]]:
    """Run each model's tasks, save those that its last report has of the same model and task.

    A task that cannot be run stops no other, and a model that cannot be loaded no other model.
    """
    from mdel_assets.machine.memory import give_memory_back
    from mdel_assets.tasks.harness import Harness

    experiment = next(iter(tasks.values())).lineage.experiment
    if harness_version() is None:
        raise TaskError(f"{NOT_INSTALLED}.")
    harness = Harness(experiment.evaluation, own_tasks_of(experiment))
    for key, task in tasks.items():
        try:
            yield key, _written(task, harness)
        except MdelError as error:
            yield key, error
        give_memory_back()


def _written(task: Task, harness: "Harness") -> Written:
    wanted = list(task.lineage.experiment.evaluation.tasks)
    results = _kept(task)
    num_kept, refused, left = len(results), dict[str, MdelError](), []
    for name in (each for each in wanted if each not in results):
        try:
            harness.load(name)
            left.append(name)
        except TaskError as error:
            refused[name] = error
    if left:
        for name, outcome in harness.run(task.lineage.model(task.key).folder, left):
            if isinstance(outcome, TaskResult):
                results[name] = outcome
            else:
                refused[name] = outcome
    lacking = TaskError("\n".join(map(str, refused.values()))) if refused else None
    if lacking and not results:
        raise lacking
    found = [results[name] for name in wanted if name in results]
    write_results(found, task.folder)
    definitions = task.identity.config["tasks"]
    made = {result.name: definitions[result.name] for result in found}
    return Written(
        counts={"num_tasks": len(found), "num_items": sum(_num_items(each) for each in found)},
        making={"num_tasks_run_now": len(found) - num_kept},
        config={**task.identity.config, "tasks": made},
        shown=found,
        lacking=lacking,
    )


def _kept(task: Task) -> dict[str, TaskResult]:
    """Return results that lie there already, of the same model, tasks, settings and harness."""
    identity = task.identity
    try:
        old = task.artifact.require()
    except ArtifactError:
        return {}
    if old.code_version != identity.code_version:
        return {}
    wanted, before = dict(identity.config), dict(old.config)
    definitions, known = wanted.pop("tasks"), before.pop("tasks", {})
    if wanted != before or dict(old.inputs) != dict(identity.inputs):
        return {}
    return {
        name: result
        for name, result in read_results(task.artifact.folder).items()
        if name in definitions and definitions[name] == known.get(name)
    }


def _num_items(result: TaskResult) -> int:
    return sum(figure.num_items for figure in result.main)


def reported(lineage: Lineage) -> list[str]:
    """Return the models with results of tasks."""
    models = lineage.present_models()
    return [key for key in models if lineage.artifact("task_report", key).is_made()]


def compare_tasks(task: Task) -> Written:
    """Write all results in one table and chart, beside bits per byte."""
    from mdel_assets.charts import to_png
    from mdel_assets.tasks.chart import comparison_figure
    from mdel_assets.tasks.comparison_text import comparison_markdown

    comparison = read_comparison(task.lineage)
    rows = comparison.as_rows()
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    (task.folder / f"{TABLE_NAME}.jsonl").write_text(lines, "utf-8")
    (task.folder / f"{TABLE_NAME}.md").write_text(comparison_markdown(comparison), "utf-8")
    (task.folder / f"{TABLE_NAME}.png").write_bytes(to_png(comparison_figure(comparison)))
    counts = {"num_models": len(comparison.figures), "num_tasks": len(comparison.columns)}
    return Written(counts=counts, shown=comparison)


def results_asked_for(lineage: Lineage) -> dict[str, dict[str, TaskResult]]:
    """Return models' results of the tasks that the experiment names; none of tasks before those."""
    results = {}
    for key in reported(lineage):
        found = read_results(lineage.required("task_report", key))
        named = lineage.experiment.evaluation.tasks
        if own := {name: found[name] for name in named if name in found}:
            results[key] = own
    return results


def read_comparison(lineage: Lineage) -> Any:
    """Return the comparison of all models with results of the tasks that are asked for.

    Raises:
        TaskError: no model has any.

    """
    from mdel_assets.tasks.comparison import compare

    evaluation = lineage.experiment.evaluation
    results = results_asked_for(lineage)
    if not results:
        raise TaskError(
            f"No model has results of {', '.join(evaluation.tasks)} yet: make `task_report` first, "
            f"or `mdel run`."
        )
    split = evaluation.splits[0]
    bits = {key: mean for key in results if (mean := _mean_bits(lineage, key, split)) is not None}
    return compare(results, bits, split=split)


def _mean_bits(lineage: Lineage, key: str, split: str) -> float | None:
    """Return a model's bits per byte, the mean over domains; None where it was not scored."""
    rows = rows_of(lineage.artifact("perplexity_report", key).read_record())
    bits = [row["bits_per_byte"] for row in rows if row["split"] == split]
    found = [value for value in bits if value is not None]
    return sum(found) / len(found) if found else None
