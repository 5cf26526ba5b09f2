"""The step that searches the weights of a merge, by which `steps.merge_recipe` then merges."""

import dataclasses
import shutil
from typing import Any

import yaml

from mdel_assets.experiment.merge_recipe import RECIPE_NAME
from mdel_assets.line.kind import Task, Written
from mdel_assets.merging.members import resolved_recipe, with_weights
from mdel_assets.merging.recipe_members import merge_inputs, recipe_members

REPORT_NAME = "search.md"
CHART_NAME = "trials.png"


def search_weights(task: Task) -> Written:
    """Find the weights of one recipe's models, and judge them on test text."""
    from mdel_assets.charts import to_png
    from mdel_assets.merging.search_report import search_markdown, sentence, trials_figure
    from mdel_assets.merging.searched import find_weights
    from mdel_assets.merging.trials import TRIALS_NAME

    lineage, stage = task.lineage, task.folder
    recipe, members = lineage.experiment.merges[task.key], recipe_members(lineage, task.key)
    inputs = merge_inputs(task, members)
    domains = lineage.present_domains()
    result = find_weights(
        recipe,
        inputs[:-1],
        base=inputs[-1],
        datasets={d: lineage.folder("domain_dataset", d) for d in domains},
        evaluation=lineage.experiment.evaluation,
        work_folder=task.work_folder,
    )
    found = resolved_recipe(recipe.without_search(), with_weights(members, result.weights))
    (stage / RECIPE_NAME).write_text(yaml.safe_dump(found, sort_keys=False), "utf-8")
    text = search_markdown(
        task.key, best=result.best, trials=result.trials, verdicts=result.verdicts
    )
    (stage / REPORT_NAME).write_text(text, "utf-8")
    (stage / CHART_NAME).write_bytes(to_png(trials_figure(result.trials, title=task.key)))
    shutil.copyfile(task.work_folder / TRIALS_NAME, stage / TRIALS_NAME)
    counts = {
        "num_trials": len(result.trials),
        "num_documents": result.num_documents,
        "num_also_evaluated": result.num_also_evaluated,
        "num_shared_layers": result.num_shared_layers,
    }
    details: dict[str, Any] = {
        "weights": result.weights,
        "best": dataclasses.asdict(result.best),
        "verdicts": [dataclasses.asdict(verdict) for verdict in result.verdicts],
        "sentences": [sentence(v, change) for v in result.verdicts for change in v.changes],
    }
    return Written(counts=counts, details=details)
