"""The steps that merge models and compare experts: each writes one kind of artifact.

They are declared in `kinds.py`; `mdel_assets.line.making` calls them.
"""

import dataclasses
import logging
import time
from collections.abc import Iterator, Mapping

from mdel_assets.experiment.merge_recipe import RECIPE_NAME
from mdel_assets.experiment.model_keys import SEED, Family
from mdel_assets.line.kind import Task, Written
from mdel_assets.line.lineage import Lineage
from mdel_assets.merging.merged_cards import card_of_merged
from mdel_assets.merging.model_card import CARD_NAME
from mdel_assets.merging.recipe_members import planned_merge
from mdel_assets.merging.sources import MergeInput

_log = logging.getLogger(__name__)


def merge_recipe(task: Task) -> Written:
    """Merge the models of one recipe."""
    lineage = task.lineage
    merge = planned_merge(lineage, task.key, task.identity.config)
    inputs = merge.inputs
    started = time.monotonic()
    result = merge.run(task.folder)
    rate = len(inputs) * result.num_parameters / 1e6 / max(time.monotonic() - started, 1e-9)
    message = "%d models of %d parameters merged, %.0f million parameters/s"
    _log.info(message, len(inputs), result.num_parameters, rate)
    details = dataclasses.asdict(result)
    written = merge.written()
    (task.folder / RECIPE_NAME).write_text(written, "utf-8")
    card = card_of_merged(
        lineage,
        task.key,
        recipe_yaml=written,
        inputs=task.identity.inputs,
        config=task.identity.config,
        result=details,
    )
    (task.folder / CARD_NAME).write_text(card, "utf-8")
    return Written(details=details)


def measure_layer_differences(tasks: Mapping[str, Task]) -> Iterator[tuple[str, Written]]:
    """Measure several domains' experts, all in one pass, against the seed and each other."""
    from mdel_assets.merging.layer_differences import measure_differences

    lineage = next(iter(tasks.values())).lineage
    experts = [_expert_input(lineage, key) for key in lineage.present_domains()]
    stages = {Family.EXPERT.key(domain): task.folder for domain, task in tasks.items()}
    seed = MergeInput(SEED, lineage.folder("seed_model"))
    found = measure_differences(experts, stages, seed=seed)
    for domain in tasks:
        yield domain, Written(details=dataclasses.asdict(found[Family.EXPERT.key(domain)]))


def _expert_input(lineage: Lineage, domain: str) -> MergeInput:
    """Return an expert with the tensors that it was to train, whatever it changed besides."""
    artifact = lineage.artifact("expert_model", domain)
    prefixes = tuple(artifact.require().details["trained_prefixes"])
    return MergeInput(Family.EXPERT.key(domain), artifact.folder, trained_prefixes=prefixes)
