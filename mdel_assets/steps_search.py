"""The step that searches a merge's weights, which `steps_merging.py` merges by."""

import dataclasses
import shutil
from typing import Any

import yaml

from mdel_assets.artifacts import Record
from mdel_assets.lineage import Lineage
from mdel_assets.makers import makes
from mdel_assets.merging.members import resolved_recipe, with_weights
from mdel_assets.merging.recipe import RECIPE_NAME
from mdel_assets.steps import current_record
from mdel_assets.steps_merging import merge_input

REPORT_NAME = "search.md"
CHART_NAME = "trials.png"


@makes("searched_merge")
def search_merge(lineage: Lineage, recipe_name: str) -> Record:
    """Find the weights of one recipe's models, and judge them on test text."""
    from mdel_assets.charts import to_png
    from mdel_assets.merging.search_report import search_markdown, sentence, trials_figure
    from mdel_assets.merging.searched import find_weights
    from mdel_assets.merging.trials import TRIALS_NAME

    if current := current_record(lineage, "searched_merge", recipe_name):
        return current
    identity = lineage.identity("searched_merge", recipe_name)
    recipe, members = lineage.experiment.merges[recipe_name], lineage.members(recipe_name)
    artifact = lineage.store.search(recipe_name)
    work = lineage.store.work_folder(f"search-{recipe_name}-{identity.fingerprint}")
    inputs = [
        merge_input(lineage, member, digest=digest)
        for member, (digest, _) in zip(members, identity.config["members"], strict=True)
    ]
    with artifact.staging() as stage:
        result = find_weights(
            recipe,
            inputs[:-1],
            base=inputs[-1],
            datasets={d: lineage.store.dataset(d).folder for d in lineage.present_domains()},
            evaluation=lineage.experiment.evaluation,
            work_folder=work,
        )
        found = resolved_recipe(recipe.without_search(), with_weights(members, result.weights))
        (stage / RECIPE_NAME).write_text(yaml.safe_dump(found, sort_keys=False), "utf-8")
        text = search_markdown(
            recipe_name, best=result.best, trials=result.trials, verdicts=result.verdicts
        )
        (stage / REPORT_NAME).write_text(text, "utf-8")
        chart = trials_figure(result.trials, title=recipe_name)
        (stage / CHART_NAME).write_bytes(to_png(chart))
        shutil.copyfile(work / TRIALS_NAME, stage / TRIALS_NAME)
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
        record = artifact.publish(stage, identity, counts=counts, details=details)
    shutil.rmtree(work)
    return record
