"""Merging and publishing what is no recipe of the experiment: what ``mdel merge`` does."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from mdel_assets.errors import MergeError, UnknownKeyError, unknown_name_message
from mdel_assets.experiment.merge_recipe import RECIPE_NAME, MergeRecipe, refuse_wrong_number
from mdel_assets.experiment.merged_models import adapter_of
from mdel_assets.experiment.model_keys import Family, ModelKey
from mdel_assets.line.lineage import Lineage
from mdel_assets.line.locks import making
from mdel_assets.merging.members import Member, members_of
from mdel_assets.merging.one_off import (
    ONE_OFF_KIND,
    MergedOnce,
    Recipes,
    merge_once,
    shown_names,
)
from mdel_assets.merging.outside_models import (
    outside_digest,
    outside_folder,
    outside_reference,
)
from mdel_assets.merging.recipe_members import merge_input
from mdel_assets.merging.sources import MergeInput
from mdel_assets.merging.stages import Intermediate, PlannedMerge
from mdel_assets.publishing.backend import Outgoing, Repository
from mdel_assets.publishing.cards import CARD_NAME, seed_in_words
from mdel_assets.publishing.forgotten import refuse_forgotten
from mdel_assets.publishing.licences import refuse_restricted
from mdel_assets.publishing.made_from import refuse_other_inputs
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


def plan_merge(lineage: Lineage, recipes: Recipes) -> PlannedMerge:
    """Find the models that ``recipes`` name; those of the Hub are fetched.

    Besides what an experiment's recipe may name: every model of the experiment by its key.

    Raises:
        MergeError: a model that is nowhere, a wrong number of them, or stages in a circle.
        MissingArtifactError: an expert of the experiment that was never made.

    """
    return _planned(lineage, recipes, recipes.final, within=())


def _planned(
    lineage: Lineage, recipes: Recipes, recipe: MergeRecipe, *, within: tuple[str, ...]
) -> PlannedMerge:
    for name in dict.fromkeys(recipe.model_names):
        if name in within:
            raise MergeError(
                f"The stage '{name}' is made from itself, through '{within[-1]}'. Take it out of "
                f"the models of one of the two."
            )
        if name not in recipes.stages:
            _require_known(lineage, name)
    uses_experts = any(name.startswith("expert:") for name in recipe.model_names)
    members = members_of(
        recipe,
        name="mdel merge",
        domains=lineage.present_domains() if uses_experts else [],
        random_numbers=[],
    )
    if not recipe.slices:
        refuse_wrong_number(recipe, [member.name for member in members.models])
    inputs: list[MergeInput | Intermediate] = []
    for member in members:
        if member.name in recipes.stages:
            stage = recipes.stages[member.name]
            merge = _planned(lineage, recipes, stage, within=(*within, member.name))
            inputs.append(Intermediate(member.name, merge, member.parameters))
        else:
            inputs.append(_locate(lineage, member, with_tokenizer=recipe.reads_tokenizers))
    return PlannedMerge(recipe, members, tuple(inputs))


def make_one_off(lineage: Lineage, merge: PlannedMerge, folder: Path) -> MergedOnce:
    """Merge into ``folder``, with recipe, tokenizer and card."""
    own = _own_models(lineage, merge)
    digests = {
        name: entry.digest or "" for name, (_, entry) in merge.located().items() if name not in own
    }
    identity = Identity(
        kind=ONE_OFF_KIND,
        key="",
        experiment=lineage.experiment.name,
        code_version=lineage.registry["merged_model"].code_version,
        config=merge.config(digests),
        inputs={artifact.label: artifact.require().fingerprint for artifact in own.values()},
    )
    return merge_once(
        merge,
        folder,
        identity=identity,
        title=folder.name,
        seed=seed_in_words(lineage) if own else "see the cards of its inputs",
    )


def publish_one_off(
    lineage: Lineage,
    merge: PlannedMerge,
    merged: MergedOnce,
    repository: Repository,
    publisher: Publisher,
) -> Published | list[str]:
    """Publish a merged folder with card and tokenizer; return what was done, or would be.

    Raises:
        PublishingError: as `refuse_publishing`, which may be otherwise by now.

    """
    refuse_publishing(lineage, merge, repository)
    domains = _domains_behind(lineage, merge)
    card = one_off_card(
        lineage.experiment,
        title=repository.name.split("/")[1],
        name=publisher.backend.loading_name(repository),
        merge_method=merged.merge_method,
        told=(merged.folder / CARD_NAME).read_text("utf-8"),
        base_models=[
            found.name
            for name in merge.located()
            for one in adapter_of(name)
            if one and (found := outside_reference(one))
        ],
        domains=domains,
    )
    files: dict[str, Outgoing] = {
        path.name: path for path in sorted(merged.folder.iterdir()) if path.is_file()
    }
    files[RECIPE_NAME] = merge.written(shown_names(merge)).encode()
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
    target, identity = _publication(lineage, merge, repository)
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
    lineage: Lineage, merge: PlannedMerge, repository: Repository
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
    own = _own_models(lineage, merge).values()
    identity = Identity(
        kind=_PUBLICATION_KIND,
        key=key,
        experiment=lineage.experiment.name,
        code_version="1",
        config={"repository": repository.name},
        inputs={artifact.label: artifact.require().fingerprint for artifact in own},
    )
    return target, identity


def refuse_publishing(lineage: Lineage, merge: PlannedMerge, repository: Repository) -> None:
    """Refuse what is not to be published, also before hours of merging.

    Raises:
        RestrictedDataError: an expert of the experiment read text under copyright.
        PublishingError: one of its models is marked as forgotten, or what that was made from is
            another by now.

    """
    for artifact in _own_models(lineage, merge).values():
        refuse_forgotten(lineage, artifact)
        refuse_other_inputs(lineage, artifact)
    domains = _domains_behind(lineage, merge)
    refuse_restricted(lineage.experiment, domains, what=str(repository))


def _own_models(lineage: Lineage, merge: PlannedMerge) -> dict[str, Artifact]:
    """Return the models of the experiment that take part, by their keys.

    A recipe may name them by their folders, as the one does that a merge leaves.
    """
    own = {lineage.model(key).folder.resolve(): key for key in lineage.experiment.model_keys}
    folders = dict.fromkeys(entry.folder.resolve() for _, entry in merge.located().values())
    return {own[folder]: lineage.model(own[folder]) for folder in folders if folder in own}


def _require_known(lineage: Lineage, name: str) -> None:
    """Raise `UnknownKeyError` where ``name`` is no model of the experiment, folder or Hub id."""
    experiment = lineage.experiment
    name, adapter = adapter_of(name)
    if adapter is not None:
        _refuse_missing_adapter(adapter)
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


def _refuse_missing_adapter(name: str) -> None:
    if not (Path(name).expanduser().is_dir() or outside_reference(name)):
        raise UnknownKeyError(
            f"There is no adapter '{name}': expected a folder, or a Hub id (OWNER/NAME or "
            f"OWNER/NAME@REVISION), after the + of a model."
        )


def _locate(lineage: Lineage, member: Member, *, with_tokenizer: bool) -> MergeInput:
    """Return where a model lies, under the name that a card may show."""
    model, adapter = adapter_of(member.name)
    if adapter is not None:
        found = _locate(lineage, Member(model, member.parameters), with_tokenizer=with_tokenizer)
        added = _locate(lineage, Member(adapter), with_tokenizer=False)
        name, digest = (f"{one}+{other}" for one, other in _in_pairs(found, added))
        return found.with_adapter(name, added.folder, digest)
    if member.name in lineage.experiment.model_keys:
        found = merge_input(lineage, member, digest="")
        fingerprint = lineage.model(member.name).require().fingerprint
        return dataclasses.replace(found, digest=fingerprint)
    digest = outside_digest(member.name, before=None, with_tokenizer=with_tokenizer)
    folder = outside_folder(member.name, digest=digest)
    shown = member.name if outside_reference(member.name) else folder.resolve().name
    return MergeInput(shown, folder, member.parameters, digest=digest)


def _in_pairs(model: MergeInput, adapter: MergeInput) -> list[tuple[str, str]]:
    """Return the names of a model and an adapter, and their digests."""
    return [(model.name, adapter.name), (model.digest or "", adapter.digest or "")]


def _domains_behind(lineage: Lineage, merge: PlannedMerge) -> Sequence[str]:
    """Return the domains that the experiment's own models among the inputs have read."""
    names = list(_own_models(lineage, merge))
    if not names:
        return []
    keys = [ModelKey.parse(name) for name in names]
    mixed = {Family.DENSE, Family.MERGED, Family.MIXTURE, Family.RANDOM, Family.VARIANT}
    if any(key.family in mixed for key in keys):
        return text_behind(lineage, lineage.present_domains())
    return text_behind(lineage, [key.name for key in keys if key.family is Family.EXPERT])
