"""A merge outside the graph: of experts, folders and models of the Hub, into a folder of one's own.

It has the recipe, the tokenizer and a card beside it, as every merged model has.
"""

import dataclasses
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from mdel_assets.durable_files import explaining_full_disk, swap_into_place, sync
from mdel_assets.errors import MergeError
from mdel_assets.merging.members import Members, resolved_recipe
from mdel_assets.merging.model_card import CARD_NAME, model_card
from mdel_assets.merging.recipe import RECIPE_NAME, MergeRecipe
from mdel_assets.merging.sources import MergeInput

MEAN = {"merge_method": "linear"}


@dataclasses.dataclass(frozen=True)
class MergedOnce:
    """A merged model in its folder. ``inputs`` maps its models to what stands for their content."""

    folder: Path
    inputs: dict[str, str]
    num_parameters: int
    merge_method: str


def one_off_recipe(experts: Sequence[str], recipe_file: Path | None) -> MergeRecipe:
    """Return the recipe in ``recipe_file``, the mean where there is none, of ``experts``.

    A file may name its models itself; then no experts are given.

    Raises:
        MergeError: the file is no recipe, or models come from both places.

    """
    content: Any = dict(MEAN)
    if recipe_file:
        try:
            content = yaml.safe_load(recipe_file.read_text("utf-8"))
        except (OSError, yaml.YAMLError) as error:
            raise MergeError(f"The recipe {recipe_file} cannot be read: {error}") from error
        if not isinstance(content, dict):
            raise MergeError(f"The recipe {recipe_file} must hold a mapping, see docs/merging.md.")
    if experts and content.get("models"):
        raise MergeError(
            f"The recipe {recipe_file} names its models itself: leave out -e, or take 'models' out "
            f"of it."
        )
    if experts:
        content = content | {"models": [{"model": name} for name in experts]}
    try:
        recipe = MergeRecipe.model_validate(content)
    except ValidationError as error:
        problems = [
            f"{'.'.join(map(str, problem['loc'])) or 'the recipe'}: {problem['msg']}"
            for problem in error.errors()
        ]
        raise MergeError(f"The recipe is refused: {'; '.join(problems)}.") from error
    if recipe.mdel.search:
        raise MergeError(
            "A search for weights needs an experiment's validation text: put the recipe under "
            "'merges' in one, or give the weights and take 'mdel.search' out."
        )
    return recipe


def merge_once(
    recipe: MergeRecipe,
    members: Members,
    inputs: Sequence[MergeInput],
    folder: Path,
    *,
    title: str,
    seed: str,
) -> MergedOnce:
    """Merge ``inputs``, the models of ``members`` in their order, into ``folder``.

    The folder is there whole afterwards, or as it was before. ``seed`` says what the models
    branched from.

    Raises:
        MergeError: the models do not fit each other, or ``folder`` holds something else.

    """
    from mdel_assets.merging.streaming import merge_models

    refuse_foreign_folder(folder)
    if len(inputs) < 2:
        raise MergeError("A merge takes at least two models: give -e twice or more.")
    folder.parent.mkdir(parents=True, exist_ok=True)
    stage = Path(tempfile.mkdtemp(prefix=f".{folder.name}.tmp-", dir=folder.parent))
    stage.chmod(0o755)
    try:
        with explaining_full_disk(title, folder.parent):
            result = merge_models(
                recipe,
                inputs[: len(members.models)],
                stage,
                base=inputs[-1] if members.base else None,
                model_folder=inputs[-1 if members.base else 0].folder,
            )
            named = _renamed(members, [entry.name for entry in inputs])
            written = yaml.safe_dump(resolved_recipe(recipe, named), sort_keys=False)
            (stage / RECIPE_NAME).write_text(written, "utf-8")
            digests = {entry.name: entry.digest or "" for entry in inputs}
            card = model_card(
                title,
                recipe_yaml=written,
                inputs=digests,
                seed=seed,
                result=dataclasses.asdict(result),
            )
            (stage / CARD_NAME).write_text(card, "utf-8")
            for path in stage.iterdir():
                sync(path)
            swap_into_place(stage, folder)
    finally:
        shutil.rmtree(stage, ignore_errors=True)
    return MergedOnce(folder, digests, result.num_parameters, recipe.merge_method)


def refuse_foreign_folder(folder: Path) -> None:
    """Raise `MergeError` where ``folder`` holds anything but an earlier merge."""
    if folder.exists() and not (folder / RECIPE_NAME).exists() and any(folder.iterdir()):
        raise MergeError(f"{folder} holds something else than a merged model: name another folder.")


def _renamed(members: Members, names: Sequence[str]) -> Members:
    """Return ``members`` by the names that cards call them."""
    models = tuple(
        dataclasses.replace(member, name=name)
        for member, name in zip(members.models, names, strict=False)
    )
    base = dataclasses.replace(members.base, name=names[-1]) if members.base else None
    return Members(models=models, base=base)
