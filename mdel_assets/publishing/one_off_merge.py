"""Merging and publishing what is no recipe of the experiment: what ``mdel merge`` does."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from mdel_assets.errors import UnknownKeyError, unknown_name_message
from mdel_assets.experiment.merge_recipe import RECIPE_NAME, MergeRecipe
from mdel_assets.experiment.model_keys import Family, ModelKey
from mdel_assets.line.lineage import Lineage
from mdel_assets.line.locks import making
from mdel_assets.merging.members import Member, Members, members_of, recipe_config
from mdel_assets.merging.one_off import (
    ONE_OFF_KIND,
    MergedOnce,
    merge_once,
    shown_names,
    written_recipe,
)
from mdel_assets.merging.outside_models import (
    outside_digest,
    outside_folder,
    outside_reference,
)
from mdel_assets.merging.recipe_members import merge_input
from mdel_assets.merging.sources import MergeInput
from mdel_assets.publishing.backend import Outgoing, Repository
from mdel_assets.publishing.cards import CARD_NAME, seed_in_words
from mdel_assets.publishing.forgotten import refuse_forgotten
from mdel_assets.publishing.licences import refuse_restricted
from mdel_assets.publishing.model_cards import one_off_card
from mdel_assets.publishing.publication import (
    Published,
    describe,
    publish,
    write_publication,
)
from mdel_assets.publishing.publisher import Publisher
from mdel_assets.publishing.steps import text_behind
from mdel_assets.store.artifacts import RECORD_NAME, Artifact
from mdel_assets.store.records import Identity

_PUBLICATION_KIND = "hub_one_off_merge"


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
    for name in recipe.model_names:
        _require_known(lineage, name)
    uses_experts = any(name.startswith("expert:") for name in recipe.model_names)
    members = members_of(
        recipe,
        name="mdel merge",
        domains=lineage.present_domains() if uses_experts else [],
        random_numbers=[],
    )
    return OneOff(recipe, members, tuple(_locate(lineage, member) for member in members))


def make_one_off(lineage: Lineage, plan: OneOff, folder: Path) -> MergedOnce:
    """Merge into ``folder``, with recipe, tokenizer and card."""
    own = _own_models(lineage, plan)
    digests = {
        member.name: entry.digest or ""
        for member, entry in zip(plan.members, plan.inputs, strict=True)
        if member.name not in own
    }
    identity = Identity(
        kind=ONE_OFF_KIND,
        key="",
        experiment=lineage.experiment.name,
        code_version=lineage.registry["merged_model"].code_version,
        config=recipe_config(plan.recipe, plan.members, digests=digests),
        inputs={artifact.label: artifact.require().fingerprint for artifact in own.values()},
    )
    return merge_once(
        plan.recipe,
        plan.members,
        plan.inputs,
        folder,
        identity=identity,
        title=folder.name,
        seed=seed_in_words(lineage) if own else "see the cards of its inputs",
    )


def publish_one_off(
    lineage: Lineage, plan: OneOff, merged: MergedOnce, repository: Repository, publisher: Publisher
) -> Published | list[str]:
    """Publish a merged folder with card and tokenizer; return what was done, or would be.

    Raises:
        PublishingError: as `refuse_publishing`, which may be otherwise by now.

    """
    refuse_publishing(lineage, plan, repository)
    domains = _domains_behind(lineage, plan)
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
    written = written_recipe(plan.recipe, plan.members, shown_names(plan.inputs))
    files[RECIPE_NAME] = written.encode()
    files[CARD_NAME] = card.encode()
    if publisher.dry_run:
        return describe(publisher.backend, repository, files, private=publisher.private)
    done = publish(
        publisher.backend,
        repository,
        files,
        message=f"{merged.merge_method} of {len(merged.inputs)} models",
        private=publisher.private,
        retries=publisher.retries,
    )
    # So that ``mdel forget`` knows of it when the folder is gone.
    target, identity = _publication(lineage, plan, repository)
    with making(target):
        write_publication(
            target,
            identity,
            done,
            location=publisher.backend.location,
            domains=domains,
            files={CARD_NAME: card.encode()},
            num_files=len(files),
        )
    return done


def _publication(
    lineage: Lineage, plan: OneOff, repository: Repository
) -> tuple[Artifact, Identity]:
    """Return where the record of a published merge lies, and what it was made from."""
    key = repository.name.replace("/", "--")
    folder = lineage.root / "publications" / "one_off_merge" / key
    target = Artifact(
        kind=_PUBLICATION_KIND,
        key=key,
        experiment=lineage.experiment.name,
        folder=folder,
        record_path=folder / RECORD_NAME,
        remedy="run 'mdel merge --hf-repo' again",
        work=lineage.root / "work",
    )
    own = _own_models(lineage, plan).values()
    identity = Identity(
        kind=_PUBLICATION_KIND,
        key=key,
        experiment=lineage.experiment.name,
        code_version="1",
        config={"repository": repository.name},
        inputs={artifact.label: artifact.require().fingerprint for artifact in own},
    )
    return target, identity


def refuse_publishing(lineage: Lineage, plan: OneOff, repository: Repository) -> None:
    """Refuse what is not to be published, also before hours of merging.

    Raises:
        RestrictedDataError: an expert of the experiment read text under copyright.
        PublishingError: one of its models is marked as forgotten.

    """
    for artifact in _own_models(lineage, plan).values():
        refuse_forgotten(lineage, artifact)
    domains = _domains_behind(lineage, plan)
    refuse_restricted(lineage.experiment, domains, what=str(repository))


def _own_models(lineage: Lineage, plan: OneOff) -> dict[str, Artifact]:
    """Return the models of the experiment that take part, by their names."""
    own = set(lineage.experiment.model_keys)
    names = dict.fromkeys(member.name for member in plan.members if member.name in own)
    return {name: lineage.model(name) for name in names}


def _require_known(lineage: Lineage, name: str) -> None:
    """Raise `UnknownKeyError` where ``name`` is no model of the experiment, folder or Hub id."""
    experiment = lineage.experiment
    experts = [f"expert:{key}" for key in experiment.domain_keys]
    if name in ("expert:*", *experts, *experiment.model_keys):
        return
    if Path(name).expanduser().is_dir() or outside_reference(name):
        return
    known = [*experiment.domain_keys, *experiment.model_keys]
    told = unknown_name_message("model", name.removeprefix("expert:"), known)
    raise UnknownKeyError(
        f"{told} Nor is there a folder of that name; a Hub id is OWNER/NAME or OWNER/NAME@REVISION."
    )


def _locate(lineage: Lineage, member: Member) -> MergeInput:
    """Return where a model lies, under the name that a card may show."""
    if member.name in lineage.experiment.model_keys:
        found = merge_input(lineage, member, digest="")
        fingerprint = lineage.model(member.name).require().fingerprint
        return dataclasses.replace(found, digest=fingerprint)
    digest = outside_digest(member.name, before=None)
    folder = outside_folder(member.name, digest=digest)
    shown = member.name if outside_reference(member.name) else folder.resolve().name
    return MergeInput(shown, folder, member.parameters, digest=digest)


def _domains_behind(lineage: Lineage, plan: OneOff) -> Sequence[str]:
    """Return the domains that the experiment's own models among the inputs have read."""
    names = list(_own_models(lineage, plan))
    if not names:
        return []
    keys = [ModelKey.parse(name) for name in names]
    mixed = {Family.DENSE, Family.MERGED, Family.MIXTURE, Family.RANDOM, Family.VARIANT}
    if any(key.family in mixed for key in keys):
        return text_behind(lineage, lineage.present_domains())
    return text_behind(lineage, [key.name for key in keys if key.family is Family.EXPERT])
