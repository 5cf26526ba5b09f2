"""The steps of the line that merge models: as `steps.py`, one function per asset."""

import dataclasses
import logging
import time
from collections.abc import Sequence
from contextlib import ExitStack

import yaml

from mdel_assets.artifacts import Record
from mdel_assets.lineage import Lineage
from mdel_assets.makers import makes
from mdel_assets.merged_cards import card_of_merged
from mdel_assets.merging.members import Member, Members, resolved_recipe, with_weights
from mdel_assets.merging.model_card import CARD_NAME
from mdel_assets.merging.outside_models import outside_folder
from mdel_assets.merging.recipe import RECIPE_NAME, MergeRecipe
from mdel_assets.merging.sources import MergeInput
from mdel_assets.steps import current_record

_log = logging.getLogger(__name__)


@makes("merged_model")
def make_merged(lineage: Lineage, recipe_name: str) -> Record:
    """Merge the models of one recipe."""
    from mdel_assets.merging.streaming import merge_models

    if current := current_record(lineage, "merged_model", recipe_name):
        return current
    identity = lineage.identity("merged_model", recipe_name)
    recipe, members = weighted_recipe(lineage, recipe_name)
    artifact = lineage.store.merged(recipe_name)
    inputs = [
        merge_input(lineage, member, digest=digest)
        for member, (digest, _) in zip(members, identity.config["members"], strict=True)
    ]
    with artifact.staging() as stage:
        started = time.monotonic()
        result = merge_models(
            recipe,
            inputs[: len(members.models)],
            stage,
            base=inputs[-1] if members.base else None,
            model_folder=lineage.store.seed_model().folder,
        )
        elapsed = time.monotonic() - started
        message = "%d models of %d parameters merged, %.0f million parameters/s"
        rate = len(inputs) * result.num_parameters / 1e6 / max(elapsed, 1e-9)
        _log.info(message, len(inputs), result.num_parameters, rate)
        details = dataclasses.asdict(result)
        written = yaml.safe_dump(resolved_recipe(recipe, members), sort_keys=False)
        (stage / RECIPE_NAME).write_text(written, "utf-8")
        card = card_of_merged(
            lineage,
            recipe_name,
            recipe_yaml=written,
            inputs=identity.inputs,
            member_digests=[digest for digest, _ in identity.config["members"]],
            result=details,
        )
        (stage / CARD_NAME).write_text(card, "utf-8")
        return artifact.publish(stage, identity, details=details)


def weighted_recipe(lineage: Lineage, recipe_name: str) -> tuple[MergeRecipe, Members]:
    """Return a recipe and its models, with the weights that were found where they are searched."""
    recipe, members = lineage.experiment.merges[recipe_name], lineage.members(recipe_name)
    if recipe.mdel.search is None:
        return recipe, members
    weights = lineage.store.search(recipe_name).require().details["weights"]
    return recipe.without_search(), with_weights(members, weights)


@makes("layer_differences")
def measure_layer_differences(lineage: Lineage, domains: Sequence[str]) -> dict[str, Record]:
    """Measure the experts of ``domains``, all in one pass, against the seed and each other."""
    from mdel_assets.merging.layer_differences import measure_differences

    kind = "layer_differences"
    records = {d: r for d in domains if (r := current_record(lineage, kind, d))}
    wanted = {f"expert-{domain}": domain for domain in domains if domain not in records}
    if not wanted:
        return records
    identities = {domain: lineage.identity(kind, domain) for domain in wanted.values()}
    experts = [_expert_input(lineage, key) for key in lineage.present_domains()]
    seed = MergeInput("seed", lineage.store.seed_model().folder)
    with ExitStack() as stack:
        stages = {
            name: stack.enter_context(lineage.store.differences(domain).staging())
            for name, domain in wanted.items()
        }
        found = measure_differences(experts, stages, seed=seed)
        for name, domain in wanted.items():
            records[domain] = lineage.store.differences(domain).publish(
                stages[name], identities[domain], details=dataclasses.asdict(found[name])
            )
    return {domain: records[domain] for domain in domains}


def _expert_input(lineage: Lineage, domain: str) -> MergeInput:
    """Return an expert with the tensors that it was to train, whatever it changed besides."""
    artifact = lineage.store.expert(domain)
    prefixes = tuple(artifact.require().details["trained_prefixes"])
    return MergeInput(f"expert-{domain}", artifact.folder, trained_prefixes=prefixes)


def merge_input(lineage: Lineage, member: Member, *, digest: str) -> MergeInput:
    """Return where a member's model lies and, by its record, in which tensors it differs."""
    if member.name not in lineage.experiment.model_keys:
        place = lineage.experiment.place_of_model(member.name)
        folder = outside_folder(place, digest=digest)
        return MergeInput(member.name, folder, member.parameters, digest=digest)
    artifact = lineage.store.model(member.name)
    trained = _trained_prefixes(artifact.require(), lineage.store.seed_model().require())
    return MergeInput(member.name, artifact.folder, member.parameters, trained)


def _trained_prefixes(record: Record, seed: Record) -> tuple[str, ...] | None:
    """Return what begins the names of tensors that may differ from the seed's; None: unknown."""
    if record == seed:
        return ()
    details = record.details
    if (
        record.inputs.get("seed_model") != seed.fingerprint
        or details.get("changed_though_frozen") != []
    ):
        return None
    prefixes = details.get("trained_prefixes")
    return None if prefixes is None else tuple(prefixes)
