"""Check tokenizers of merge recipes before anything is made, as far as they are on this disk."""

from collections.abc import Iterator
from pathlib import Path

from mdel_assets.errors import MergeError
from mdel_assets.line.lineage import Lineage
from mdel_assets.merging.chat_template import refuse_missing_tokenizer
from mdel_assets.merging.members import members_of, stage_of
from mdel_assets.merging.united_tokenizer import united_tokenizer


def mistakes_of_tokenizers(lineage: Lineage) -> Iterator[str]:
    """Yield why the tokenizers of recipes' models cannot be united as the recipes say.

    A recipe is left out if one of its models is on the Hub or made by another recipe, or if the
    seed is not yet there.
    """
    experiment, seed = lineage.experiment, _seed_folder(lineage)
    for name, recipe in experiment.merges.items():
        members = members_of(
            recipe,
            name=name,
            domains=experiment.domain_keys,
            random_numbers=experiment.random_split_keys,
        )
        # All models of an experiment have the seed's tokenizer.
        places = {m.name: _folder(lineage, m.name) or seed for m in members}
        folders = {model: place for model, place in places.items() if place and place.is_dir()}
        if folders.keys() != places.keys():
            continue
        try:
            united = united_tokenizer(members, folders)
            if recipe.chat_template and not united and seed:
                refuse_missing_tokenizer(seed)
        except MergeError as error:
            yield f"merges.{name}: {error}"


def _folder(lineage: Lineage, model: str) -> Path | None:
    """Return the folder that a recipe's model names; None for a model of the experiment."""
    if model in lineage.experiment.model_keys:
        return None
    if stage_of(model):
        # Its tokenizer is not yet made.
        return Path(model)
    return Path(lineage.experiment.place_of_model(model)).expanduser()


def _seed_folder(lineage: Lineage) -> Path | None:
    """Return where the seed's tokenizer is; None if it is nowhere on this disk."""
    made, path = lineage.artifact("seed_model"), lineage.experiment.seed_model.path
    if made.read_record():
        return made.folder
    folder = Path(lineage.experiment.place_of_model(path)).expanduser() if path else None
    return folder if folder and folder.is_dir() else None
