"""The card of a merged model, from the records of its experiment.

`make_merged` writes it into the model's folder before the model is scored. For an existing model,
`merged_model_card` returns it with the perplexity table, once there is a report of that model.
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from mdel_assets.experiment.experiment import Experiment
from mdel_assets.experiment.merge_recipe import RECIPE_NAME
from mdel_assets.experiment.model_keys import Family
from mdel_assets.hub.sources import hub_reference
from mdel_assets.line.lineage import Lineage
from mdel_assets.merging.members import FOLDER_PREFIX, stage_of, without_folders
from mdel_assets.merging.model_card import model_card
from mdel_assets.merging.outside_models import (
    HUB_PREFIX,
    digests_in,
    outside_folder,
    outside_reference,
)
from mdel_assets.merging.recipe_members import members_of_all_stages, recipe_members
from mdel_assets.scoring.report_rows import ReportRow, rows_of
from mdel_assets.store.artifacts import Artifact
from mdel_assets.training.stated_licences import stated_licence

_HUB = "https://huggingface.co"


def merged_model_card(lineage: Lineage, recipe_name: str, *, is_published: bool = False) -> str:
    """Return the card of an existing merged model, with a table if the model was scored.

    ``is_published`` leaves out the table and the inputs' local paths, which publishing replaces.

    Raises:
        MissingArtifactError: the model was never made.

    """
    artifact = lineage.artifact("merged_model", recipe_name)
    record = artifact.require()
    written = (artifact.folder / RECIPE_NAME).read_text("utf-8")
    return card_of_merged(
        lineage,
        recipe_name,
        recipe_yaml=without_folders(written) if is_published else written,
        inputs=record.inputs,
        config=record.config,
        result=record.details,
        perplexity=[] if is_published else _rows(lineage, recipe_name, record.fingerprint),
        is_published=is_published,
    )


def card_of_merged(
    lineage: Lineage,
    recipe_name: str,
    *,
    recipe_yaml: str,
    inputs: Mapping[str, str],
    config: Mapping[str, Any],
    result: Mapping[str, Any],
    perplexity: Sequence[ReportRow] = (),
    is_published: bool = False,
) -> str:
    """Return the card of what a recipe made of ``inputs``, fingerprints by label.

    ``config`` is of the model's identity: it has the digests of models from elsewhere.
    """
    experiment = lineage.experiment
    links, licences = _links(lineage, recipe_name), _licences(lineage, recipe_name)
    named = dict(_in_order(lineage, recipe_name, inputs))
    for model, digest in _outside_models(lineage, recipe_name, config):
        place = experiment.place_of_model(model)
        reference = outside_reference(place)
        name = model if reference else Path(model).name
        named[name] = digest
        licences[name] = stated_licence(outside_folder(place, digest=digest))
        if reference:
            links[name] = f"{_HUB}/{reference.name}/tree/{digest.rpartition('@')[2]}"
    if is_published:
        links = {name: link for name, link in links.items() if link.startswith(_HUB)}
    return model_card(
        f"{recipe_name} ({experiment.name})",
        recipe_yaml=recipe_yaml,
        inputs=named,
        seed=shown_seed(experiment, is_published=is_published),
        result=result,
        links=links,
        licences=licences,
        corpus_licences=experiment.source.licenses,
        search=_search_sentences(lineage, recipe_name),
        perplexity=perplexity,
    )


def shown_seed(experiment: Experiment, *, is_published: bool) -> str:
    """Return the seed model as a card names it; a published card names no place on this disk."""
    seed = experiment.seed_model
    if not is_published or seed.path is None:
        return seed.path or "pretrained for this experiment"
    reference = hub_reference(experiment.place_of_model(seed.path), revision=seed.revision)
    return reference.name if reference else "a model that is not on the Hub"


def _outside_models(
    lineage: Lineage, recipe_name: str, config: Mapping[str, Any]
) -> Iterator[tuple[str, str]]:
    """Yield each model from elsewhere, those of all stages, with its digest."""
    members = recipe_members(lineage, recipe_name)
    for member, (digest, _) in zip(members, config["members"], strict=True):
        if stage := stage_of(member.name):
            yield from _outside_models(lineage, stage, config["stages"][stage])
        else:
            names = lineage.experiment.adapter_of(member.name)
            named = zip(names, digests_in(digest), strict=False)
            yield from ((n, d) for n, d in named if n and d.startswith((FOLDER_PREFIX, HUB_PREFIX)))


def _models(lineage: Lineage, recipe_name: str) -> list[Artifact]:
    """Return the experiment's own models that the recipe's is made from."""
    known, members = lineage.experiment.model_keys, members_of_all_stages(lineage, recipe_name)
    own = [lineage.model(member.name) for member in members if member.name in known]
    return [lineage.artifact("seed_model"), *own]


def _in_order(lineage: Lineage, recipe_name: str, inputs: Mapping[str, str]) -> dict[str, str]:
    """Return the inputs in the recipe's order, the seed first; a record has them by name."""
    labels = dict.fromkeys(artifact.label for artifact in _models(lineage, recipe_name))
    return {label: inputs[label] for label in [*labels, *sorted(inputs.keys() - labels.keys())]}


def _links(lineage: Lineage, recipe_name: str) -> dict[str, str]:
    """Return where each input is: on the Hub, or relative to the merged model's folder."""
    home = lineage.folder("merged_model", recipe_name)
    artifacts = _models(lineage, recipe_name)
    if recipe_name in lineage.experiment.searched_recipes:
        artifacts.append(lineage.artifact("searched_merge", recipe_name))
    links = {a.label: Path(os.path.relpath(a.folder, home)).as_posix() for a in artifacts}
    seed = lineage.experiment.seed_model
    place = lineage.experiment.place_of_model(seed.path or "")
    if reference := hub_reference(place, revision=seed.revision):
        address = f"{_HUB}/{reference.name}/tree/{reference.revision}"
        links[lineage.artifact("seed_model").label] = address
    return links


def _licences(lineage: Lineage, recipe_name: str) -> dict[str, str | None]:
    """Return each model's own licence; one without has the seed's, which it branched from."""
    of_seed = lineage.artifact("seed_model").require().details.get("licence")
    return {a.label: stated_licence(a.folder) or of_seed for a in _models(lineage, recipe_name)}


def _search_sentences(lineage: Lineage, recipe_name: str) -> list[str]:
    if recipe_name not in lineage.experiment.searched_recipes:
        return []
    details = lineage.artifact("searched_merge", recipe_name).require().details
    return list(details["sentences"])


def _rows(lineage: Lineage, recipe_name: str, fingerprint: str) -> list[ReportRow]:
    """Return the rows of the report of just this model, none where there is no such report."""
    record = lineage.artifact("perplexity_report", Family.MERGED.key(recipe_name)).read_record()
    return [row for row in rows_of(record) if row["model_fingerprint"] == fingerprint]
