"""The card of a merged model, from what the records of its experiment say.

`make_merged` writes it beside the model, before the model is scored; `merged_model_card` gives it
again for a model that is there, with the perplexity table as soon as there is a report of just that
model.
"""

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mdel_assets.artifacts import Artifact
from mdel_assets.lineage import Lineage
from mdel_assets.merging.members import FOLDER_PREFIX, Member
from mdel_assets.merging.model_card import model_card
from mdel_assets.merging.outside_models import HUB_PREFIX
from mdel_assets.merging.recipe import RECIPE_NAME
from mdel_assets.training.stated_licences import stated_licence

_HUB = "https://huggingface.co"
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")


def merged_model_card(lineage: Lineage, recipe_name: str) -> str:
    """Return the card of a merged model that is there; its table, if the model was scored.

    Raises:
        MissingArtifactError: the model was never made.

    """
    artifact = lineage.store.merged(recipe_name)
    record = artifact.require()
    return card_of_merged(
        lineage,
        recipe_name,
        recipe_yaml=(artifact.folder / RECIPE_NAME).read_text("utf-8"),
        inputs=record.inputs,
        member_digests=[digest for digest, _ in record.config["members"]],
        result=record.details,
        perplexity=_rows(lineage, recipe_name, record.fingerprint),
    )


def card_of_merged(
    lineage: Lineage,
    recipe_name: str,
    *,
    recipe_yaml: str,
    inputs: Mapping[str, str],
    member_digests: list[str],
    result: Mapping[str, Any],
    perplexity: list[Mapping[str, Any]] | None = None,
) -> str:
    """Return the card of what a recipe made of ``inputs``, fingerprints by label.

    ``member_digests`` are the members' in the recipe's order, as the model's config has them.
    """
    experiment = lineage.experiment
    folders = _members(lineage, recipe_name, member_digests, prefix=FOLDER_PREFIX)
    digests = {Path(member.name).name: digest for member, digest in folders}
    from_hub = _members(lineage, recipe_name, member_digests, prefix=HUB_PREFIX)
    digests |= {member.name: digest for member, digest in from_hub}
    return model_card(
        f"{recipe_name} ({experiment.name})",
        recipe_yaml=recipe_yaml,
        inputs={**_in_order(lineage, recipe_name, inputs), **digests},
        seed=experiment.seed_model.path or "pretrained for this experiment",
        result=result,
        links=_links(lineage, recipe_name)
        | {member.name: _hub_page(digest) for member, digest in from_hub},
        licences=_licences(lineage, recipe_name)
        | {Path(m.name).name: stated_licence(Path(m.name).expanduser()) for m, _ in folders},
        corpus_licences=experiment.source.licenses,
        search=_search_sentences(lineage, recipe_name),
        perplexity=perplexity or [],
    )


def _members(
    lineage: Lineage, recipe_name: str, digests: list[str], *, prefix: str
) -> list[tuple[Member, str]]:
    """Return the members whose digests begin with ``prefix``, with these digests."""
    named = zip(lineage.members(recipe_name), digests, strict=True)
    return [(member, digest) for member, digest in named if digest.startswith(prefix)]


def _hub_page(digest: str) -> str:
    name, _, commit = digest.removeprefix(HUB_PREFIX).rpartition("@")
    return f"{_HUB}/{name}/tree/{commit}"


def _models(lineage: Lineage, recipe_name: str) -> list[Artifact]:
    """Return the experiment's own models that the recipe's is made from."""
    known = lineage.experiment.model_keys
    own = [lineage.store.model(m.name) for m in lineage.members(recipe_name) if m.name in known]
    return [lineage.store.seed_model(), *own]


def _in_order(lineage: Lineage, recipe_name: str, inputs: Mapping[str, str]) -> dict[str, str]:
    """Return the inputs in the recipe's order, the seed first; a record has them by name."""
    labels = dict.fromkeys(artifact.label for artifact in _models(lineage, recipe_name))
    return {label: inputs[label] for label in [*labels, *sorted(inputs.keys() - labels.keys())]}


def _links(lineage: Lineage, recipe_name: str) -> dict[str, str]:
    """Return where each input is: on the Hub, or relative to the merged model's folder."""
    home = lineage.store.merged(recipe_name).folder
    artifacts = _models(lineage, recipe_name)
    if recipe_name in lineage.experiment.searched_recipes:
        artifacts.append(lineage.store.search(recipe_name))
    links = {a.label: Path(os.path.relpath(a.folder, home)).as_posix() for a in artifacts}
    seed = lineage.experiment.seed_model
    if seed.path and _HUB_ID.fullmatch(seed.path) and not Path(seed.path).is_dir():
        links[lineage.store.seed_model().label] = f"{_HUB}/{seed.path}/tree/{seed.revision}"
    return links


def _licences(lineage: Lineage, recipe_name: str) -> dict[str, str | None]:
    """Return each model's own licence; one without has the seed's, which it branched from."""
    of_seed = lineage.store.seed_model().require().details.get("licence")
    return {a.label: stated_licence(a.folder) or of_seed for a in _models(lineage, recipe_name)}


def _search_sentences(lineage: Lineage, recipe_name: str) -> list[str]:
    if recipe_name not in lineage.experiment.searched_recipes:
        return []
    details = lineage.store.search(recipe_name).require().details
    return list(details["sentences"])


def _rows(lineage: Lineage, recipe_name: str, fingerprint: str) -> list[Mapping[str, Any]]:
    """Return the rows of the report of just this model, none where there is no such report."""
    record = lineage.store.report(f"merged-{recipe_name}").read_record()
    rows = record.details["rows"] if record else []
    return [row for row in rows if row["model_fingerprint"] == fingerprint]
