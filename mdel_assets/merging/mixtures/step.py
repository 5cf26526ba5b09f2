"""The step that makes a mixture of experts; `mdel_assets.line.making` calls it."""

import dataclasses
import logging
from pathlib import Path
from typing import Any

from mdel_assets.experiment.mixtures import MixtureRecipe
from mdel_assets.experiment.model_keys import Family
from mdel_assets.line.kind import Task, Written
from mdel_assets.line.lineage import Lineage
from mdel_assets.merging.members import Member
from mdel_assets.merging.mixtures.build import Mixing, MixtureResult, build_mixture
from mdel_assets.merging.mixtures.cards import card_of_mixture
from mdel_assets.merging.mixtures.leaving import leave_mixture, reason_to_stay
from mdel_assets.merging.model_card import CARD_NAME
from mdel_assets.merging.recipe_members import merge_input

_log = logging.getLogger(__name__)


def mix_experts(task: Task) -> Written:
    """Make one mixture: of the last one where an expert has left it, else of the experts."""
    from mdel_assets.merging.mixtures.active_weights import count_active

    recipe = task.lineage.experiment.mixtures[task.key]
    if left := expert_that_left(task):
        _log.info("%s leaves %s; all else of it stays", left, task.artifact.label)
        result = leave_mixture(task.artifact.folder, task.folder, expert=left)
    else:
        result = _built(task, recipe)
    details: dict[str, Any] = {
        **dataclasses.asdict(result.merged),
        **dataclasses.asdict(result.contents),
        "experts": list(result.contents.experts),
        "num_active_parameters": count_active(task.folder),
    }
    making = None
    if recipe.router == "trained":
        details["history"], making = _trained(task, recipe)
    card = card_of_mixture(
        task.lineage, task.key, inputs=task.identity.inputs, folder=task.folder, details=details
    )
    (task.folder / CARD_NAME).write_text(card, "utf-8")
    return Written(details=details, making=making)


def expert_that_left(task: Task) -> str | None:
    """Return the one expert that the last mixture has besides, if it can leave that as it is.

    Nothing else may differ, neither in the recipe nor in what both are made from.
    """
    artifact, identity = task.artifact, task.identity
    last = artifact.last_record()
    if last is None or last.code_version != identity.code_version:
        return None
    before, now = dict(last.config), dict(identity.config)
    had, has = before.pop("experts"), now.pop("experts")
    left = [domain for domain in had if domain not in has]
    if before != now or len(left) != 1 or [domain for domain in had if domain in has] != has:
        return None
    # The general expert's row is made of the text of all domains.
    kinds = ["expert_model"] if now["general_expert"] else ["expert_model", "domain_dataset"]
    its = {task.lineage.artifact(kind, left[0]).label for kind in kinds}
    others = {label: value for label, value in last.inputs.items() if label not in its}
    if others != dict(identity.inputs) or not artifact.holds(last.fingerprint):
        return None
    name = Family.EXPERT.key(left[0])
    return None if reason_to_stay(artifact.folder, name) else name


def _built(task: Task, recipe: MixtureRecipe) -> MixtureResult:
    from mdel_assets.merging.mixtures.domain_gates import domain_gates

    lineage, domains = task.lineage, task.identity.config["experts"]
    training = lineage.experiment.training
    gates_LED = domain_gates(
        lineage.folder("seed_model"),
        datasets=_datasets(lineage),
        experts=domains,
        general_expert=recipe.general_expert,
        num_tokens=recipe.router_tokens,
        block_size=training.block_size,
        special_tokens=training.special_tokens,
    )
    members = (Member(Family.EXPERT.key(domain)) for domain in domains)
    return build_mixture(
        [merge_input(lineage, member, digest="") for member in members],
        task.folder,
        seed=merge_input(lineage, Member("seed"), digest=""),
        mixing=Mixing(recipe.router, recipe.experts_per_token, recipe.general_expert),
        gates_LED=gates_LED,
    )


def _trained(task: Task, recipe: MixtureRecipe) -> tuple[dict[str, Any], dict[str, Any]]:
    """Train the gates; return what the record says of it, and what was this time's alone."""
    from mdel_assets.merging.mixtures.trained_gates import train_gates
    from mdel_assets.training.steps import taken_out

    history = train_gates(
        task.folder,
        recipe.training,
        datasets=_datasets(task.lineage),
        expert_training=task.lineage.experiment.training,
        work_folder=task.work_folder,
        conditions=task.conditions,
    )
    details = {"history": dataclasses.asdict(history)}
    making = taken_out(details)
    return details["history"], making


def _datasets(lineage: Lineage) -> dict[str, Path]:
    return {d: lineage.folder("domain_dataset", d) for d in lineage.present_domains()}
