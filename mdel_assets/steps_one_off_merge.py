"""Merging and publishing what is no recipe of the experiment: what ``mdel merge`` does."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from mdel_assets.lineage import Lineage
from mdel_assets.merging.members import Member, Members, members_of
from mdel_assets.merging.one_off import MergedOnce, merge_once
from mdel_assets.merging.outside_models import (
    outside_digest,
    outside_folder,
    outside_reference,
)
from mdel_assets.merging.recipe import MergeRecipe, refuse_wrong_number
from mdel_assets.merging.sources import MergeInput
from mdel_assets.publishing.backend import Outgoing, Repository
from mdel_assets.publishing.cards import CARD_NAME, seed_in_words
from mdel_assets.publishing.licences import refuse_restricted
from mdel_assets.publishing.model_cards import one_off_card
from mdel_assets.publishing.publication import Published, describe, publish
from mdel_assets.publishing.publisher import Publisher
from mdel_assets.steps_forgetting import refuse_forgotten
from mdel_assets.steps_merging import merge_input
from mdel_assets.steps_publishing import text_behind


@dataclasses.dataclass(frozen=True)
class OneOff:
    """A merge that was asked for: its recipe, and its models where they lie."""

    recipe: MergeRecipe
    members: Members
    inputs: tuple[MergeInput, ...]


def plan_merge(lineage: Lineage, recipe: MergeRecipe) -> OneOff:
    """Find the models that ``recipe`` names; those of the Hub are fetched.

    Besides what an experiment's recipe may name: every model of the experiment by its key.

    Raises:
        MergeError: a model that is nowhere, or a wrong number of them.
        MissingArtifactError: an expert of the experiment that was never made.

    """
    uses_experts = any(name.startswith("expert:") for name in recipe.model_names)
    members = members_of(
        recipe,
        name="mdel merge",
        domains=lineage.present_domains() if uses_experts else [],
        random_numbers=[],
    )
    refuse_wrong_number(recipe, [member.name for member in members.models])
    return OneOff(recipe, members, tuple(_locate(lineage, member) for member in members))


def make_one_off(lineage: Lineage, plan: OneOff, folder: Path) -> MergedOnce:
    """Merge into ``folder``, with recipe, tokenizer and card."""
    own = set(lineage.experiment.model_keys)
    is_own = any(member.name in own for member in plan.members)
    return merge_once(
        plan.recipe,
        plan.members,
        plan.inputs,
        folder,
        title=folder.name,
        seed=seed_in_words(lineage) if is_own else "see the cards of its inputs",
    )


def publish_one_off(
    lineage: Lineage, plan: OneOff, merged: MergedOnce, repository: Repository, publisher: Publisher
) -> Published | list[str]:
    """Publish a merged folder with card and tokenizer; return what was done, or would be.

    Raises:
        RestrictedDataError: an expert of the experiment read text under copyright.

    """
    domains = _domains_behind(lineage, plan)
    own = set(lineage.experiment.model_keys)
    for member in plan.members:
        if member.name in own:
            refuse_forgotten(lineage, lineage.store.model(member.name))
    refuse_restricted(lineage.experiment, domains, what=str(repository))
    card = one_off_card(
        lineage.experiment,
        title=repository.name.split("/")[1],
        name=publisher.backend.loading_name(repository),
        merge_method=merged.merge_method,
        told=(merged.folder / CARD_NAME).read_text("utf-8"),
        base_models=[r.name for member in plan.members if (r := outside_reference(member.name))],
        domains=domains,
    )
    files: dict[str, Outgoing] = {
        path.name: path for path in sorted(merged.folder.iterdir()) if path.is_file()
    }
    files[CARD_NAME] = card.encode()
    if publisher.dry_run:
        return describe(publisher.backend, repository, files, private=publisher.private)
    return publish(
        publisher.backend,
        repository,
        files,
        message=f"{merged.merge_method} of {len(merged.inputs)} models",
        private=publisher.private,
        patience=publisher.patience,
    )


def _locate(lineage: Lineage, member: Member) -> MergeInput:
    """Return where a model lies, under the name that a card may show."""
    if member.name in lineage.experiment.model_keys:
        found = merge_input(lineage, member, digest="")
        fingerprint = lineage.store.model(member.name).require().fingerprint
        return dataclasses.replace(found, digest=fingerprint)
    digest = outside_digest(member.name, before=None)
    folder = outside_folder(member.name, digest=digest)
    shown = member.name if outside_reference(member.name) else folder.resolve().name
    return MergeInput(shown, folder, member.parameters, digest=digest)


def _domains_behind(lineage: Lineage, plan: OneOff) -> Sequence[str]:
    """Return the domains that the experiment's own models among the inputs have read."""
    own = set(lineage.experiment.model_keys)
    names = [member.name for member in plan.members if member.name in own]
    if not names:
        return []
    if any(name.startswith(("dense", "merged-", "random-", "variant-")) for name in names):
        return text_behind(lineage, lineage.present_domains())
    experts = [name.removeprefix("expert-") for name in names if name.startswith("expert-")]
    return text_behind(lineage, experts)
