"""Merges in stages: a recipe may take what another recipe makes as one of its models.

An intermediate merge is written like any other, into a folder inside the staging folder of the
merge that needs it, and removed before that one is published. So it is not an artifact; what it is
made of is part of the final merge's identity.
"""

import dataclasses
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from mdel_assets.experiment.merge_recipe import MergeRecipe
from mdel_assets.merging.members import Member, Members, recipe_config, resolved_recipe
from mdel_assets.merging.sources import MergeInput

if TYPE_CHECKING:
    from mdel_assets.merging.streaming import MergeResult

_FOLDER = ".stages"


@dataclasses.dataclass(frozen=True)
class Intermediate:
    """A model of a merge that is merged first, by the recipe called ``name``."""

    name: str
    merge: "PlannedMerge"
    parameters: Mapping[str, Any] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class PlannedMerge:
    """A recipe, its models, and where each lies or how it is made, in the order of ``members``.

    ``model_folder`` has the configuration and the tokenizer; None stands for the base's, or else
    the first model's.
    """

    recipe: MergeRecipe
    members: Members
    inputs: tuple[MergeInput | Intermediate, ...]
    model_folder: Path | None = None

    def stages(self) -> dict[str, Intermediate]:
        """Return what is merged first, by the recipes' names, in the order of the merges."""
        found: dict[str, Intermediate] = {}
        for entry in self.inputs:
            if isinstance(entry, Intermediate):
                found |= {**entry.merge.stages(), entry.name: entry}
        return found

    def located(self) -> dict[str, tuple[Member, MergeInput]]:
        """Return the models that are there already, those of all stages, by their names."""
        found = {}
        for merge in (*(stage.merge for stage in self.stages().values()), self):
            for member, entry in zip(merge.members, merge.inputs, strict=True):
                if isinstance(entry, MergeInput):
                    found[member.name] = (member, entry)
        return found

    def run(self, folder: Path) -> "MergeResult":
        """Merge into ``folder``, stage by stage.

        Raises:
            MergeError: as `merge_models`.

        """
        stages = self.stages()
        if stages:
            for merge in (*(stage.merge for stage in stages.values()), self):
                merge._refuse_wrong_tokenizers()
        scratch = folder / _FOLDER
        made: dict[str, Path] = {}
        for number, (name, stage) in enumerate(stages.items()):
            place = scratch / str(number)
            place.mkdir(parents=True)
            stage.merge._merge(place, made)
            made[name] = place
        result = self._merge(folder, made)
        shutil.rmtree(scratch, ignore_errors=True)
        return result

    def _refuse_wrong_tokenizers(self) -> None:
        """Refuse tokenizers that cannot be united before an earlier stage is merged.

        Where one of the models is itself made by a stage, its tokenizer is not there yet.
        """
        from mdel_assets.merging.united_tokenizer import united_tokenizer

        pairs = zip(self.members, self.inputs, strict=True)
        found = {m.name: entry.folder for m, entry in pairs if isinstance(entry, MergeInput)}
        if len(found) == len({member.name for member in self.members}):
            united_tokenizer(self.members, found)

    def _merge(self, folder: Path, made: Mapping[str, Path]) -> "MergeResult":
        from mdel_assets.merging.streaming import merge_models

        inputs = [
            MergeInput(entry.name, made[entry.name], entry.parameters)
            if isinstance(entry, Intermediate)
            else entry
            for entry in self.inputs
        ]
        base = inputs[-1] if self.members.base else None
        return merge_models(
            self.recipe,
            inputs[: len(self.members.models)],
            folder,
            base=base,
            members=self.members,
            model_folder=self.model_folder or (base or inputs[0]).folder,
        )

    def config(self, digests: Mapping[str, str]) -> dict[str, Any]:
        """Return what of the recipes is part of the identity; see `recipe_config`."""
        own = recipe_config(self.recipe, self.members, digests=digests)
        stages = {
            entry.name: entry.merge.config(digests)
            for entry in self.inputs
            if isinstance(entry, Intermediate)
        }
        return own | ({"stages": stages} if stages else {})

    def written(self, shown: Mapping[str, str] | None = None) -> str:
        """Return the recipe as YAML; each stage is a document of its own, with its ``name``.

        ``shown`` are other names of models.
        """
        documents = [
            {"name": name, **stage.merge._resolved(shown or {})}
            for name, stage in self.stages().items()
        ]
        return yaml.safe_dump_all([*documents, self._resolved(shown or {})], sort_keys=False)

    def _resolved(self, shown: Mapping[str, str]) -> dict[str, Any]:
        names = [
            entry.name if isinstance(entry, Intermediate) else shown.get(member.name, member.name)
            for entry, member in zip(self.inputs, self.members, strict=True)
        ]
        return resolved_recipe(self.recipe, self.members.renamed(names))
