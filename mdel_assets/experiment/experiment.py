"""Experiment: what is studied, frozen. `loading` reads it from a YAML file and validates it."""

from pathlib import Path
from typing import Annotated, Literal, TypeVar

from pydantic import Field

from mdel_assets.errors import ExperimentError, UnknownKeyError, unknown_name_message
from mdel_assets.experiment.domains import ClusteredDomains, Domains
from mdel_assets.experiment.evaluation import Evaluation
from mdel_assets.experiment.fields import (
    Baselines,
    Domain,
    ExpertTraining,
    Mixture,
    Optimization,
    SeedModel,
    Source,
    Variant,
)
from mdel_assets.experiment.forecast import Forecast
from mdel_assets.experiment.merge_recipe import MergeRecipe
from mdel_assets.experiment.merged_models import adapter_of
from mdel_assets.experiment.mixtures import MixtureRecipe
from mdel_assets.experiment.model_keys import DENSE, DENSE_ONE, SEED, Family
from mdel_assets.experiment.pile_domains import PILE_DOMAINS
from mdel_assets.experiment.publishing import Hub, Tracking
from mdel_assets.experiment.section import NUM_SEEDS, Section
from mdel_assets.experiment.shard_locations import MAX_SHARDS, shard_keys, write_out

_LENGTHS = {"num_tokens", "max_steps", "num_epochs"}
_Settings = TypeVar("_Settings", bound=Optimization)
VALIDATION_SHARD = "val"
TEST_SHARD = "test"


class Shard(Section):
    """One file of the corpus: partition key, location, and the split its documents are for."""

    key: str
    location: str
    role: Literal["train", "validation", "test"]
    sha256: str | None = None


class Experiment(Section):
    """What is studied. Read `experiments/sample.yaml` beside this class.

    ``name`` is that of its folder in ``MDEL_HOME``. ``domains`` lists the domains, or is ``pile``
    for the Pile's, or ``{clusters: 8}`` to find them by clustering. ``replicates`` is how often
    everything is trained, each time with other seeds. With ``forecast: {}``, probe trainings tell
    beforehand whether branching will pay.
    """

    name: str
    source: Source
    domains: Domains = "pile"
    mixture: Mixture = Mixture()
    seed_model: SeedModel
    training: ExpertTraining
    variants: dict[str, Variant] = {}
    baselines: Baselines = Baselines()
    merges: dict[str, MergeRecipe] = {}
    mixtures: dict[str, MixtureRecipe] = {}
    evaluation: Evaluation = Evaluation()
    forecast: Forecast | None = None
    hub: Hub = Hub()
    tracking: Tracking = Tracking()
    replicates: Annotated[int, Field(ge=1, le=100)] = 1
    # The YAML's folder, where relative paths start. It is not part of the experiment's identity.
    folder: str | None = None

    @property
    def domain_table(self) -> tuple[Domain, ...]:
        """The domains, in partition order."""
        if isinstance(self.domains, ClusteredDomains):
            return self.domains.table
        return PILE_DOMAINS if self.domains == "pile" else self.domains

    @property
    def clusters(self) -> ClusteredDomains | None:
        """How domains are found in a corpus without labels, else None."""
        return self.domains if isinstance(self.domains, ClusteredDomains) else None

    @property
    def domain_keys(self) -> list[str]:
        """Partition keys of the domains."""
        return [domain.key for domain in self.domain_table]

    @property
    def model_keys(self) -> list[str]:
        """Every model that can be scored.

        ``seed``, ``dense-one``, ``dense``, ``expert-<domain>``, ``random-<number>``,
        ``variant-<name>``, ``merged-<recipe>``, ``mixture-<name>``, ``reference-<name>``, as far as
        the experiment has them.
        """
        named = {
            Family.EXPERT: self.domain_keys,
            Family.RANDOM: self.random_split_keys,
            Family.VARIANT: self.variants,
            Family.MERGED: self.merges,
            Family.MIXTURE: self.mixtures,
            Family.REFERENCE: self.evaluation.references,
        }
        keys = [key for family, names in named.items() for key in family.keys(names)]
        return [SEED, *self.dense_keys, *keys]

    def replicate(self, number: int) -> "Experiment":
        """Return the experiment with the training seeds of replicate ``number``, from 1.

        Each seed is that of the first replicate plus ``number - 1``: experts and baselines read
        blocks and documents in another order, and a seed model that is pretrained here begins with
        other weights. Only the first replicate has variants.
        """
        more = number - 1
        seed_model, pretrain = self.seed_model, self.seed_model.pretrain
        if pretrain:
            anew = {"pretrain": _with_seed_moved(pretrain, more)}
            seed_model = seed_model.model_copy(update=anew)
        training = _with_seed_moved(self.training, more)
        changes = {"seed_model": seed_model, "training": training, "replicates": 1}
        return self.model_copy(update=changes | ({"variants": {}} if more else {}))

    def variant_training(self, name: str) -> ExpertTraining:
        """Return the settings that a variant is trained with."""
        changes = self.variants[name].training
        kept = self.training.model_dump(exclude_unset=True)
        if _LENGTHS & changes.keys():
            kept = {key: value for key, value in kept.items() if key not in _LENGTHS}
        return ExpertTraining.model_validate(kept | changes)

    @property
    def searched_recipes(self) -> list[str]:
        """Recipes with searched weights."""
        return [name for name, recipe in self.merges.items() if recipe.mdel.search]

    @property
    def dense_keys(self) -> list[str]:
        """The dense baselines of the experiment: ``dense-one``, ``dense``, both or none."""
        chosen = {DENSE_ONE: self.baselines.dense_one, DENSE: self.baselines.dense}
        return [key for key, is_chosen in chosen.items() if is_chosen]

    @property
    def random_split_keys(self) -> list[str]:
        """Partition keys of the random split's experts: numbers from 1, one for each domain."""
        count = len(self.domain_table) if self.baselines.random_split else 0
        return [str(number + 1) for number in range(count)]

    def require_domain(self, key: str) -> Domain:
        """Return the domain called ``key``; raise `UnknownKeyError` with the nearest known one."""
        for domain in self.domain_table:
            if domain.key == key:
                return domain
        raise UnknownKeyError(unknown_name_message("domain", key, self.domain_keys))

    def place(self, location: str) -> str:
        """Return a location from the YAML; relative paths start at the YAML's folder."""
        if self.folder is None or "://" in location or location.startswith("~"):
            return location
        return str(Path(self.folder) / location)

    def place_of_model(self, name: str) -> str:
        """Return a model's location from the YAML: a folder, or a Hub id unchanged."""
        place = self.place(name)
        is_path = name.startswith(".") or name.count("/") > 1
        return place if name and (is_path or Path(place).exists()) else name

    def adapter_of(self, name: str) -> tuple[str, str | None]:
        """Return a recipe's model, and the adapter that is merged into it or None, by name."""
        return adapter_of(name, self.place_of_model)

    @property
    def hub_endpoint(self) -> str | None:
        """``hub.endpoint``; a relative folder in ``file:FOLDER`` starts at the YAML's folder."""
        endpoint = self.hub.endpoint or ""
        folder = endpoint.removeprefix("file:")
        is_folder = endpoint.startswith("file:") and folder
        return f"file:{self.place(folder)}" if is_folder else self.hub.endpoint

    def shards(self) -> list[Shard]:
        """Return the shards, train first; local globs are expanded in sorted order.

        Raises:
            ExperimentError: a glob matches nothing, there are too many, or one is given twice.

        """
        places = [
            place
            for pattern in self.source.train
            for place in write_out(pattern, folder=self.folder)
        ]
        if len(places) > MAX_SHARDS:
            raise ExperimentError(
                f"source.train names {len(places)} shards, but an experiment can have at most "
                f"{MAX_SHARDS}. Join files into fewer shards."
            )
        validation, test = self.source.validation, self.source.test
        held_out = {VALIDATION_SHARD: validation, TEST_SHARD: test}
        keys = shard_keys(places, taken=[key for key, place in held_out.items() if place])
        found = [
            Shard(key=key, location=place, role="train", sha256=None)
            for key, place in zip(keys, places, strict=True)
        ]
        if validation:
            place = self.place(validation)
            found.append(Shard(key=VALIDATION_SHARD, location=place, role="validation"))
        if test:
            found.append(Shard(key=TEST_SHARD, location=self.place(test), role="test"))
        try:
            _refuse_repeats("shard name", [shard.key for shard in found])
        except ValueError as error:
            raise ExperimentError(f"source.train: {error}. Remove one of the two.") from None
        if unknown := set(self.source.sha256) - {shard.key for shard in found}:
            raise UnknownKeyError(
                unknown_name_message("shard", min(unknown), [shard.key for shard in found])
            )
        return [
            shard.model_copy(update={"sha256": self.source.sha256.get(shard.key)})
            for shard in found
        ]


def _with_seed_moved(training: _Settings, more: int) -> _Settings:
    """Return the settings with ``more`` added to the seed, in the range of seeds."""
    return training.model_copy(update={"seed": (training.seed + more) % NUM_SEEDS})


def _refuse_repeats(what: str, names: list[str]) -> None:
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise ValueError(f"the {what} '{name}' occurs twice")
        seen.add(name)
