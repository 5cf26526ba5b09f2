"""The models of a merge: a recipe's models with ``*`` written out, and digests of folders."""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from mdel_assets.errors import MergeError
from mdel_assets.experiment.merge_recipe import MergeRecipe
from mdel_assets.experiment.model_keys import Family
from mdel_assets.merge_methods.settings import number_setting
from mdel_assets.store.digests import text_digest
from mdel_assets.store.verification import Notes

FOLDER_PREFIX = "folder:"


@dataclasses.dataclass(frozen=True)
class Member:
    """A model of a merge: ``seed``, ``expert-<domain>``, ``random-<number>`` or a folder."""

    name: str
    parameters: Mapping[str, Any] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Members:
    """The models of a merge in the recipe's order, besides the base."""

    models: tuple[Member, ...]
    base: Member | None

    def __iter__(self) -> Iterator[Member]:
        yield from self.models
        if self.base:
            yield self.base


def members_of(
    recipe: MergeRecipe, *, name: str, domains: Sequence[str], random_numbers: Sequence[str]
) -> Members:
    """Return the models of the recipe called ``name``.

    ``expert:*`` stands for ``domains``, and ``random:*`` for ``random_numbers``.

    Raises:
        MergeError: the recipe names the expert of a domain that is not among ``domains``.

    """
    base = _one(recipe.base, name, domains) if recipe.base else None
    models: list[Member] = []
    for entry in recipe.models:
        parameters = entry.parameters.given()
        if entry.model == "expert:*":
            models += [Member(key, parameters) for key in Family.EXPERT.keys(domains)]
        elif entry.model == "random:*":
            models += [Member(key, parameters) for key in Family.RANDOM.keys(random_numbers)]
        else:
            models.append(Member(_one(entry.model, name, domains), parameters))
    return Members(
        models=tuple(member for member in models if member.name != base),
        base=Member(base) if base else None,
    )


def with_weights(members: Members, weights: Mapping[str, Any]) -> Members:
    """Return the members with the weights that a search found, by their names."""
    weighted = [
        dataclasses.replace(
            m, parameters={**m.parameters, "weight": number_setting(weights[m.name])}
        )
        for m in members.models
    ]
    return dataclasses.replace(members, models=tuple(weighted))


def _one(model: str, recipe_name: str, domains: Sequence[str]) -> str:
    domain = model.removeprefix("expert:")
    if domain == model:
        return model
    if domain not in domains:
        raise MergeError(
            f"Recipe '{recipe_name}' needs the expert of '{domain}', but the corpus has no "
            f"training document of that domain. Remove it from the recipe. Present domains: "
            f"{', '.join(domains)}."
        )
    return Family.EXPERT.key(domain)


def resolved_recipe(recipe: MergeRecipe, members: Members) -> dict[str, Any]:
    """Return the recipe in mergekit's schema, with all models and values written out."""
    content = recipe.model_dump(
        mode="json", exclude={"models", "base_model"}, exclude_defaults=True
    )
    if members.base:
        content["base_model"] = members.base.name
    models = []
    for member in members.models:
        entry: dict[str, Any] = {"model": member.name}
        if parameters := recipe_parameters(member):
            entry["parameters"] = parameters
        models.append(entry)
    return content | {"models": models}


def recipe_config(
    recipe: MergeRecipe, members: Members, *, digests: Mapping[str, str]
) -> dict[str, Any]:
    """Return the config of a merge: the recipe, and its models with their parameters.

    A model from elsewhere is identified by its digest, if ``digests`` has one, because its name
    does not determine its content.
    """
    config = recipe.model_dump(mode="json", exclude={"models", "base_model"}, exclude_defaults=True)
    named = [
        [digests.get(member.name, member.name), recipe_parameters(member)] for member in members
    ]
    return config | {"members": named, "has_base": members.base is not None}


def without_folders(written: str) -> str:
    """Return a written recipe in which folder paths are reduced to the folder's name."""
    content = yaml.safe_load(written)
    for entry in [content, *content["models"]]:
        for field in ("model", "base_model"):
            if Path(str(entry.get(field, ""))).is_absolute():
                entry[field] = Path(entry[field]).name
    return yaml.safe_dump(content, sort_keys=False)


def recipe_parameters(member: Member) -> dict[str, Any]:
    """Return a member's own parameters as YAML and JSON know them: lists, not tuples."""
    return {name: _plain(value) for name, value in member.parameters.items()}


def _plain(value: Any) -> Any:
    if isinstance(value, tuple):
        return [_plain(entry) for entry in value]
    if isinstance(value, Mapping):
        return {key: _plain(entry) for key, entry in value.items()}
    return value


def folder_digest(folder: Path, *, notes: Path | None = None) -> str:
    """Return a digest of a model folder's weights and configuration.

    In the folder ``notes`` stands what was read of it: files that stay as they are are read once.

    Raises:
        MergeError: it is not a folder, or has no safetensors weights.

    """
    folder = folder.expanduser()
    if not folder.is_dir():
        raise MergeError(
            f"'{folder}' is not a model. Expected 'seed', 'expert:<domain>', a model folder or a "
            f"Hub id (OWNER/NAME or OWNER/NAME@REVISION). Correct the recipe."
        )
    names = sorted(
        path.name
        for path in folder.iterdir()
        if path.suffix == ".safetensors" or path.name == "config.json"
    )
    if not any(name.endswith(".safetensors") for name in names):
        raise MergeError(
            f"The folder '{folder}' holds no model: it has no *.safetensors file. Save a model "
            f"there (model.save_pretrained), or name another folder."
        )
    name = f"outside-{text_digest(str(folder.absolute()))}.json"
    digests = Notes(folder, notes / name if notes else None).digests(names)
    return FOLDER_PREFIX + "-".join(digests[name][:16] for name in names)
