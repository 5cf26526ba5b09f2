"""A merge outside the graph: of experts, folders and Hub models, into any folder.

Like every merged model, it comes with the recipe, the tokenizer, a card and a record.
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from mdel_assets.errors import MergeError
from mdel_assets.experiment.merge_recipe import RECIPE_NAME, MergeRecipe
from mdel_assets.experiment.mistakes import validated
from mdel_assets.merging.members import Members, resolved_recipe
from mdel_assets.merging.model_card import CARD_NAME, model_card
from mdel_assets.merging.outside_models import HUB_PREFIX
from mdel_assets.merging.sources import MergeInput
from mdel_assets.store.artifacts import RECORD_NAME, Artifact
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


def one_off_recipe(experts: Sequence[str], recipe_file: Path | None) -> MergeRecipe:
    """Return the recipe in ``recipe_file``, or the mean, of ``experts``.

    If the file names its models itself, ``experts`` must be empty.

    Raises:
        MergeError: the file is not a recipe, or models come from both places.

    """
    content: Any = dict(MEAN)
    if recipe_file:
        try:
            content = yaml.safe_load(recipe_file.read_text("utf-8"))
        except (OSError, yaml.YAMLError) as error:
            raise MergeError(f"The recipe {recipe_file} cannot be read: {error}") from error
        if not isinstance(content, dict):
            raise MergeError(f"The recipe {recipe_file} must be a mapping. See docs/merging.md.")
        content = _beside(recipe_file.absolute().parent, content)
    if experts and (named := [key for key in ("models", "slices") if content.get(key)]):
        raise MergeError(
            f"The recipe {recipe_file} names its models itself: leave out -e, or remove "
            f"'{named[0]}' from it."
        )
    if experts:
        content = content | {"models": [{"model": name} for name in experts]}
    origin = f"The recipe {recipe_file}" if recipe_file else "The recipe"
    recipe = validated(MergeRecipe, content, origin=origin, raises=MergeError)
    if recipe.mdel.search:
        raise MergeError(
            "A search for weights needs an experiment's validation text: put the recipe under "
            "'merges' in an experiment, or give the weights and remove 'mdel.search'."
        )
    return recipe


def _beside(folder: Path, content: Any) -> Any:
    """Return a recipe's content with paths for models that are folders next to the recipe."""
    if isinstance(content, list):
        return [_beside(folder, one) for one in content]
    if not isinstance(content, dict):
        return content
    names = ("model", "base_model")
    return {k: _placed(folder, v) if k in names else _beside(folder, v) for k, v in content.items()}


def _placed(folder: Path, name: Any) -> Any:
    is_there = isinstance(name, str) and (folder / name).is_dir()
    return str(folder / name) if is_there else name


def merge_once(
    recipe: MergeRecipe,
    members: Members,
    inputs: Sequence[MergeInput],
    folder: Path,
    *,
    identity: Identity,
    title: str,
    seed: str,
) -> MergedOnce:
    """Merge ``inputs``, the models of ``members`` in their order, into ``folder``.

    Afterwards the folder is complete, or as it was before. Its recipe names models by their paths,
    so that it can be repeated; its card uses the names of ``inputs``. ``seed`` describes the model
    that the models branched from.

    Raises:
        MergeError: the models do not fit each other, or ``folder`` holds something else.

    """
    from mdel_assets.merging.streaming import merge_models

    refuse_foreign_folder(folder)
    if len(inputs) < 2 and not members.slices:
        raise MergeError("A merge takes at least two models: give -e at least twice.")
    artifact = one_off_artifact(folder, experiment=identity.experiment)
    with artifact.staging() as stage:
        result = merge_models(
            recipe,
            inputs[: len(members.models)],
            stage,
            base=inputs[-1] if members.base else None,
            members=members,
            model_folder=inputs[-1 if members.base else 0].folder,
        )
        places = [_place(entry) for entry in inputs]
        (stage / RECIPE_NAME).write_text(written_recipe(recipe, members, places), "utf-8")
        digests = {entry.name: entry.digest or "" for entry in inputs}
        card = model_card(
            title,
            recipe_yaml=written_recipe(recipe, members, shown_names(inputs)),
            inputs=digests,
            seed=seed,
            result=dataclasses.asdict(result),
        )
        (stage / CARD_NAME).write_text(card, "utf-8")
        artifact.publish(stage, identity, details=dataclasses.asdict(result))
    return MergedOnce(folder, digests, result.num_parameters, recipe.merge_method)


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


def shown_names(inputs: Sequence[MergeInput]) -> list[str]:
    """Return the models' names for others: Hub models with their commits."""
    digests = [(entry, entry.digest or "") for entry in inputs]
    return [
        digest.removeprefix(HUB_PREFIX) if digest.startswith(HUB_PREFIX) else entry.name
        for entry, digest in digests
    ]


def written_recipe(recipe: MergeRecipe, members: Members, names: Sequence[str]) -> str:
    """Return the recipe as YAML, its models by ``names``."""
    return yaml.safe_dump(resolved_recipe(recipe, members.renamed(names)), sort_keys=False)


def _place(entry: MergeInput) -> str:
    """Return a model's name in a recipe that is to be repeated on this machine."""
    (name,) = shown_names([entry])
    return name if (entry.digest or "").startswith(HUB_PREFIX) else str(entry.folder.resolve())
