"""Partitions of the graph, and which partition is made from which."""

import contextlib
import dataclasses
from collections.abc import Sequence
from typing import Any

import dagster as dg
from dagster._core.storage.tags import (
    ASSET_PARTITION_RANGE_END_TAG,
    ASSET_PARTITION_RANGE_START_TAG,
)

from mdel_assets.defs.absence import PartitionsThatAre, absent_keys
from mdel_assets.errors import ExperimentError
from mdel_assets.experiment import Experiment


class ShardPartitions(dg.StaticPartitionsDefinition):
    """The shards that the experiment's paths and globs match now.

    A file that appears while the code location is loaded is a partition at once, for runs and
    sensors; the web UI lists it after its next reload.
    """

    def __init__(self, experiment: Experiment) -> None:
        self._experiment = experiment
        super().__init__([shard.key for shard in experiment.shards()])

    def get_partition_keys(self, *args: Any, **options: Any) -> Sequence[str]:
        """Return the keys of all shards, train first."""
        # Where files went away, the known keys stay: what needs such a file says so itself.
        with contextlib.suppress(ExperimentError):
            self._partition_keys = [shard.key for shard in self._experiment.shards()]
        return super().get_partition_keys(*args, **options)


@dataclasses.dataclass(frozen=True)
class Partitions:
    """The partitions that one experiment gives."""

    shard: dg.StaticPartitionsDefinition
    domain: PartitionsThatAre
    recipe: dg.StaticPartitionsDefinition | None
    model: PartitionsThatAre
    experts_of_recipe: dg.StaticPartitionMapping
    expert_of_model: dg.StaticPartitionMapping
    random_split: PartitionsThatAre | None
    random_of_recipe: dg.StaticPartitionMapping
    random_of_model: dg.StaticPartitionMapping
    recipe_of_model: dg.StaticPartitionMapping
    searched: dg.StaticPartitionsDefinition | None
    experts_of_search: dg.StaticPartitionMapping
    random_of_search: dg.StaticPartitionMapping
    search_of_recipe: dg.StaticPartitionMapping
    reference: dg.StaticPartitionsDefinition | None
    reference_of_model: dg.StaticPartitionMapping
    variant: PartitionsThatAre | None
    variant_of_model: dg.StaticPartitionMapping

    @classmethod
    def of(cls, experiment: Experiment, *, absent_domains: Sequence[str] = ()) -> "Partitions":
        """Return the partitions of ``experiment``; None where there would be none."""
        recipes = list(experiment.merges)
        references = list(experiment.evaluation.references)
        of_random = [
            name for name, recipe in experiment.merges.items() if "random:*" in recipe.model_names
        ]
        searched = experiment.searched_recipes
        absent = absent_keys(experiment, absent_domains)
        domain = PartitionsThatAre(experiment.domain_keys, absent["domain"])
        domains = domain.get_partition_keys()
        random_split = PartitionsThatAre(experiment.random_split_keys, absent["random"])
        numbers = random_split.get_partition_keys()
        variant = PartitionsThatAre(list(experiment.variants), absent["variant"])
        experts_of = _experts_by_domain(experiment, domains)
        return cls(
            shard=ShardPartitions(experiment),
            domain=domain,
            recipe=dg.StaticPartitionsDefinition(recipes) if recipes else None,
            model=PartitionsThatAre(experiment.model_keys, absent["model"]),
            experts_of_recipe=dg.StaticPartitionMapping(experts_of),
            expert_of_model=_named_after("expert", domains),
            random_split=random_split if experiment.random_split_keys else None,
            random_of_recipe=dg.StaticPartitionMapping(dict.fromkeys(numbers, of_random)),
            random_of_model=_named_after("random", numbers),
            recipe_of_model=_named_after("merged", recipes),
            searched=dg.StaticPartitionsDefinition(searched) if searched else None,
            experts_of_search=dg.StaticPartitionMapping(
                {
                    key: own
                    for key, names in experts_of.items()
                    if (own := [name for name in names if name in searched])
                }
            ),
            random_of_search=dg.StaticPartitionMapping(
                {key: [name for name in of_random if name in searched] for key in numbers}
            ),
            search_of_recipe=dg.StaticPartitionMapping({name: name for name in searched}),
            reference=dg.StaticPartitionsDefinition(references) if references else None,
            reference_of_model=_named_after("reference", references),
            variant=variant if experiment.variants else None,
            variant_of_model=_named_after("variant", variant.get_partition_keys()),
        )


def range_tags(keys: Sequence[str]) -> dict[str, str]:
    """Return the tags of a run for ``keys``, which follow one another."""
    return {ASSET_PARTITION_RANGE_START_TAG: keys[0], ASSET_PARTITION_RANGE_END_TAG: keys[-1]}


def _named_after(family: str, keys: Sequence[str]) -> dg.StaticPartitionMapping:
    """Map each key to its model's."""
    return dg.StaticPartitionMapping({key: f"{family}-{key}" for key in keys})


def _experts_by_domain(experiment: Experiment, domains: Sequence[str]) -> dict[str, list[str]]:
    """Map each of ``domains`` to the recipes that its expert goes into."""
    recipes_of: dict[str, list[str]] = {}
    for name, recipe in experiment.merges.items():
        for model in recipe.model_names:
            if not model.startswith("expert:"):
                continue
            wanted = model.removeprefix("expert:")
            for domain in domains if wanted == "*" else [wanted]:
                if domain in domains and name not in recipes_of.setdefault(domain, []):
                    recipes_of[domain].append(name)
    return recipes_of
