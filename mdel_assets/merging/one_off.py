"""A merge outside the graph: of experts, folders and Hub models, into any folder.

Like every merged model, it comes with the recipe, the tokenizer, a card and a record.
"""

import dataclasses
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from mdel_assets.errors import MergeError
from mdel_assets.experiment.merge_recipe import RECIPE_NAME, MergeRecipe
from mdel_assets.experiment.merged_models import adapter_of, with_adapter
from mdel_assets.experiment.merged_tokenizer import BASE, UNION
from mdel_assets.experiment.mistakes import validated
from mdel_assets.merging.members import FOLDER_PREFIX
from mdel_assets.merging.model_card import CARD_NAME, model_card
from mdel_assets.merging.outside_models import HUB_PREFIX, digests_in
from mdel_assets.merging.sources import MergeInput
from mdel_assets.merging.stages import PlannedMerge
from mdel_assets.store.artifacts import RECORD_NAME, Artifact
from mdel_assets.store.digests import text_digest
from mdel_assets.store.records import Identity

MEAN = {"merge_method": "linear"}
ONE_OFF_KIND = "one_off_merge"


@dataclasses.dataclass(frozen=True)
class MergedOnce:
    """A merged model in its folder. ``inputs`` maps its models to digests of their content."""

    folder: Path
    inputs: dict[str, str]
    num_parameters: int
    merge_method: str


@dataclasses.dataclass(frozen=True)
class Recipes:
    """The recipe of a merge, and recipes by whose names it may call what they make."""

    final: MergeRecipe
    stages: Mapping[str, MergeRecipe] = dataclasses.field(default_factory=dict)


def one_off_recipes(experts: Sequence[str], recipe_file: Path | None) -> Recipes:
    """Return the recipe in ``recipe_file``, or the mean, of ``experts``.

    If the file names its models itself, ``experts`` must be empty. Of several YAML documents, those
    with a ``name`` are stages; the one without, or else the last, is the final merge.

    Raises:
        MergeError: the file is not a recipe, or models come from both places.

    """
    if recipe_file is None:
        return Recipes(_checked(MEAN | {"models": _entries(experts)}, "The recipe"))
    documents = _read(recipe_file)
    if experts:
        content = documents[0]
        named = [key for key in ("models", "slices", "modules") if content.get(key)]
        if named or len(documents) > 1:
            raise MergeError(
                f"The recipe {recipe_file} names its models itself: leave out -e, or remove "
                f"'{named[0] if named else 'models'}' from it."
            )
        content["models"] = _entries(experts)
    names = [str(content.pop("name")) if "name" in content else None for content in documents]
    if twice := [name for name in names if names.count(name) > 1]:
        what = f"'{twice[0]}' names" if twice[0] else "no name is given to"
        raise MergeError(
            f"The recipe {recipe_file}: {what} {names.count(twice[0])} documents. Give each "
            f"document but the final one a 'name' of its own."
        )
    final = names.index(None) if None in names else len(names) - 1
    found = {
        name or "": _checked(
            content, f"The recipe {recipe_file}" + (f" ('{name}')" if name else "")
        )
        for name, content in zip(names, documents, strict=True)
    }
    whole = found.pop(names[final] or "")
    return Recipes(whole, found)


def _entries(experts: Sequence[str]) -> list[dict[str, Any]]:
    return [{"model": name} for name in experts]


def _read(recipe_file: Path) -> list[dict[str, Any]]:
    """Return the documents of a recipe file."""
    try:
        documents = list(yaml.safe_load_all(recipe_file.read_text("utf-8")))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise MergeError(f"The recipe {recipe_file} cannot be read: {error}") from error
    if not documents or not all(isinstance(content, dict) for content in documents):
        raise MergeError(f"The recipe {recipe_file} must be a mapping. See docs/merging.md.")
    folder = recipe_file.absolute().parent
    names = {content.get("name") for content in documents}
    return [_beside(folder, content, names) for content in documents]


def _checked(content: dict[str, Any], origin: str) -> MergeRecipe:
    recipe = validated(MergeRecipe, content, origin=origin, raises=MergeError)
    if recipe.mdel.search:
        raise MergeError(
            "A search for weights needs an experiment's validation text: put the recipe under "
            "'merges' in an experiment, or give the weights and remove 'mdel.search'."
        )
    return recipe


def _beside(folder: Path, content: Any, stages: Collection[Any]) -> Any:
    """Return a recipe's content with paths for models that are folders next to the recipe."""
    if isinstance(content, list):
        return [_beside(folder, one, stages) for one in content]
    if not isinstance(content, dict):
        return content

    taken = {*stages, BASE, UNION}

    def placed_one(name: str | None) -> Any:
        is_there = name is not None and name not in taken and (folder / name).is_dir()
        return str(folder / str(name)) if is_there else name

    def placed(name: Any) -> Any:
        if not isinstance(name, str):
            return _beside(folder, name, stages)
        if (folder / name).is_dir():
            return placed_one(name)
        return with_adapter(*map(placed_one, adapter_of(name, lambda one: str(folder / one))))

    names = ("model", "base_model", "tokenizer_source", "source")
    return {k: placed(v) if k in names else _beside(folder, v, stages) for k, v in content.items()}


def merge_once(
    merge: PlannedMerge, folder: Path, *, identity: Identity, title: str, seed: str
) -> MergedOnce:
    """Merge into ``folder``.

    Afterwards the folder is complete, or as it was before. Its recipe names models by their paths,
    so that it can be repeated; its card uses the names of their inputs. ``seed`` describes the
    model that the models branched from.

    Raises:
        MergeError: the models do not fit each other, or ``folder`` holds something else.

    """
    refuse_foreign_folder(folder)
    if len(merge.inputs) < 2 and not merge.recipe.slices:
        raise MergeError("A merge takes at least two models: give -e at least twice.")
    artifact = one_off_artifact(folder, experiment=identity.experiment)
    located, names = merge.located(), _distinct_names(merge)
    with artifact.staging() as stage:
        result = merge.run(stage)
        places = {name: _place(entry) for name, (_, entry) in located.items()}
        (stage / RECIPE_NAME).write_text(merge.written(places), "utf-8")
        digests = {names[name]: entry.digest or "" for name, (_, entry) in located.items()}
        card = model_card(
            title,
            recipe_yaml=merge.written(shown_names(merge)),
            inputs=digests,
            seed=seed,
            result=dataclasses.asdict(result),
        )
        (stage / CARD_NAME).write_text(card, "utf-8")
        artifact.publish(stage, identity, details=dataclasses.asdict(result))
    return MergedOnce(folder, digests, result.num_parameters, merge.recipe.merge_method)


def one_off_artifact(folder: Path, *, experiment: str) -> Artifact:
    """Return ``folder`` as the artifact of a merge outside the recipes of ``experiment``."""
    return Artifact(
        kind=ONE_OFF_KIND,
        key="",
        experiment=experiment,
        folder=folder,
        record_path=folder / RECORD_NAME,
        remedy="run 'mdel merge' again",
    )


def refuse_foreign_folder(folder: Path) -> None:
    """Raise `MergeError` if ``folder`` holds anything but an earlier merge."""
    if folder.exists() and not (folder / RECIPE_NAME).exists() and any(folder.iterdir()):
        raise MergeError(f"{folder} is not empty and not a merged model: name another folder.")


def shown_names(merge: PlannedMerge) -> dict[str, str]:
    """Return the models' names for others: Hub models with their commits."""
    names = _distinct_names(merge)
    return {
        name: with_adapter(*map(_shown_one, adapter_of(names[name]), _digests(entry)))
        for name, (_, entry) in merge.located().items()
    }


def _distinct_names(merge: PlannedMerge) -> dict[str, str]:
    """Return a name for each model, by that in the recipe; no two models have the same.

    Folders of one name are told apart by their parents, or else by a digest.
    """
    entries = {name: entry for name, (_, entry) in merge.located().items()}
    found = {name: entry.name for name, entry in entries.items()}
    for renamed in (_with_parents, _with_digest):
        models: dict[str, set[str | None]] = {}
        for name, entry in entries.items():
            models.setdefault(found[name], set()).add(entry.digest)
        found |= {n: renamed(n, entries[n]) for n, own in found.items() if len(models[own]) > 1}
    return found


def _with_parents(name: str, entry: MergeInput) -> str:
    def shown(one: str | None, folder: Path | None, digest: str | None) -> Any:
        if folder is None or not (digest or "").startswith(FOLDER_PREFIX):
            return one
        return "/".join(folder.resolve().parts[-2:])

    folders = (entry.folder, entry.adapter)
    return with_adapter(*map(shown, adapter_of(name), folders, _digests(entry)))


def _with_digest(name: str, entry: MergeInput) -> str:
    return f"{_with_parents(name, entry)} ({text_digest(entry.digest or '')[:8]})"


def _shown_one(name: str | None, digest: str | None) -> Any:
    is_on_hub = (digest or "").startswith(HUB_PREFIX)
    return str(digest).removeprefix(HUB_PREFIX) if is_on_hub else name


def _place(entry: MergeInput) -> str:
    """Return a model's name in a recipe that is to be repeated on this machine."""
    folders = (entry.folder, entry.adapter)
    places = [str(folder.resolve()) if folder else None for folder in folders]
    return with_adapter(*map(_shown_one, places, _digests(entry)))


def _digests(entry: MergeInput) -> tuple[str | None, str | None]:
    """Return the digest of a model, and that of the adapter that is merged into it."""
    if entry.adapter is None:
        return entry.digest, None
    model, adapter = digests_in(entry.digest or "+")
    return model, adapter
