"""The models of an experiment's recipe: who they are, where they lie, in what they differ."""

from collections.abc import Mapping
from typing import Any

from mdel_assets.experiment.merge_recipe import MergeRecipe
from mdel_assets.line.kind import Task
from mdel_assets.line.lineage import Lineage
from mdel_assets.merging.members import Member, Members, members_of, stage_of, with_weights
from mdel_assets.merging.outside_models import digests_in, outside_folder
from mdel_assets.merging.sources import MergeInput
from mdel_assets.merging.stages import Intermediate, PlannedMerge
from mdel_assets.store.records import Record


def recipe_members(lineage: Lineage, recipe: str) -> Members:
    """Return the models of a recipe, ``*`` written out.

    Raises:
        MergeError: the recipe names the expert of an absent domain.

    """
    return members_of(
        lineage.experiment.merges[recipe],
        name=recipe,
        domains=lineage.present_domains(),
        random_numbers=lineage.keys("random_split_expert"),
    )


def weighted_recipe(lineage: Lineage, recipe_name: str) -> tuple[MergeRecipe, Members]:
    """Return a recipe and its models, with the weights that were found where they are searched."""
    recipe, members = lineage.experiment.merges[recipe_name], recipe_members(lineage, recipe_name)
    if recipe.mdel.search is None:
        return recipe, members
    weights = lineage.artifact("searched_merge", recipe_name).require().details["weights"]
    return recipe.without_search(), with_weights(members, weights)


def members_of_all_stages(lineage: Lineage, recipe: str) -> list[Member]:
    """Return the models of a recipe and of the recipes that it is made from, each once.

    Adapters that are merged into them are left out.
    """
    found: dict[str, Member] = {}
    for member in recipe_members(lineage, recipe):
        stage = stage_of(member.name)
        own = Member(lineage.experiment.adapter_of(member.name)[0], member.parameters)
        within = members_of_all_stages(lineage, stage) if stage else [own]
        found |= {one.name: one for one in within}
    return list(found.values())


def planned_merge(lineage: Lineage, recipe_name: str, config: Mapping[str, Any]) -> PlannedMerge:
    """Return a recipe with all its stages; ``config`` is of the identity of what it makes."""
    recipe, members = weighted_recipe(lineage, recipe_name)
    inputs: list[MergeInput | Intermediate] = []
    for member, (digest, _) in zip(members, config["members"], strict=True):
        if stage := stage_of(member.name):
            merge = planned_merge(lineage, stage, config["stages"][stage])
            inputs.append(Intermediate(stage, merge, member.parameters))
        else:
            inputs.append(merge_input(lineage, member, digest=digest))
    return PlannedMerge(recipe, members, tuple(inputs), lineage.folder("seed_model"))


def merge_inputs(task: Task, members: Members) -> list[MergeInput]:
    """Return where the models of a recipe without stages lie, in the order of its members."""
    digests = [digest for digest, _ in task.identity.config["members"]]
    return [
        merge_input(task.lineage, member, digest=digest)
        for member, digest in zip(members, digests, strict=True)
    ]


def merge_input(lineage: Lineage, member: Member, *, digest: str) -> MergeInput:
    """Return where a member's model lies and, by its record, in which tensors it differs."""
    model, adapter = lineage.experiment.adapter_of(member.name)
    if adapter is not None:
        of_model, of_adapter = digests_in(digest)
        found = merge_input(lineage, Member(model, member.parameters), digest=of_model)
        place = lineage.experiment.place_of_model(adapter)
        return found.with_adapter(member.name, outside_folder(place, digest=of_adapter), digest)
    if member.name not in lineage.experiment.model_keys:
        place = lineage.experiment.place_of_model(member.name)
        folder = outside_folder(place, digest=digest)
        return MergeInput(member.name, folder, member.parameters, digest=digest)
    artifact = lineage.model(member.name)
    trained = _trained_prefixes(artifact.require(), lineage.artifact("seed_model").require())
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
