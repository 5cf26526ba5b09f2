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
    domain: dg.StaticPartitionsDefinition
    recipe: dg.StaticPartitionsDefinition | None
    model: dg.StaticPartitionsDefinition
    experts_of_recipe: dg.StaticPartitionMapping
    expert_of_model: dg.StaticPartitionMapping
    random_split: dg.StaticPartitionsDefinition | None
    random_of_recipe: dg.StaticPartitionMapping
    random_of_model: dg.StaticPartitionMapping
    recipe_of_model: dg.StaticPartitionMapping
    searched: dg.StaticPartitionsDefinition | None
    experts_of_search: dg.StaticPartitionMapping
    random_of_search: dg.StaticPartitionMapping
    search_of_recipe: dg.StaticPartitionMapping
    reference: dg.StaticPartitionsDefinition | None
    reference_of_model: dg.StaticPartitionMapping
    variant: dg.StaticPartitionsDefinition | None
    variant_of_model: dg.StaticPartitionMapping

    @classmethod
    def of(cls, experiment: Experiment) -> "Partitions":
        """Return the partitions of ``experiment``; None where there would be none."""
        recipes = list(experiment.merges)
        references = list(experiment.evaluation.references)
        variants = list(experiment.variants)
        numbers = experiment.random_split_keys
        of_random = [
            name for name, recipe in experiment.merges.items() if "random:*" in recipe.model_names
        ]
        searched = experiment.searched_recipes
        return cls(
            shard=ShardPartitions(experiment),
            domain=dg.StaticPartitionsDefinition(experiment.domain_keys),
            recipe=dg.StaticPartitionsDefinition(recipes) if recipes else None,
            model=dg.StaticPartitionsDefinition(experiment.model_keys),
            experts_of_recipe=dg.StaticPartitionMapping(_experts_by_domain(experiment)),
            expert_of_model=dg.StaticPartitionMapping(
                {domain: f"expert-{domain}" for domain in experiment.domain_keys}
            ),
            random_split=dg.StaticPartitionsDefinition(numbers) if numbers else None,
            random_of_recipe=dg.StaticPartitionMapping(dict.fromkeys(numbers, of_random)),
            random_of_model=dg.StaticPartitionMapping(
                {number: f"random-{number}" for number in numbers}
            ),
            recipe_of_model=dg.StaticPartitionMapping(
                {recipe: f"merged-{recipe}" for recipe in recipes}
            ),
            searched=dg.StaticPartitionsDefinition(searched) if searched else None,
            experts_of_search=dg.StaticPartitionMapping(
                {
                    domain: own
                    for domain, recipes in _experts_by_domain(experiment).items()
                    if (own := [name for name in recipes if name in searched])
                }
            ),
            random_of_search=dg.StaticPartitionMapping(
                {key: [name for name in of_random if name in searched] for key in numbers}
            ),
            search_of_recipe=dg.StaticPartitionMapping({name: name for name in searched}),
            reference=dg.StaticPartitionsDefinition(references) if references else None,
            reference_of_model=dg.StaticPartitionMapping(
                {name: f"reference-{name}" for name in references}
            ),
            variant=dg.StaticPartitionsDefinition(variants) if variants else None,
            variant_of_model=dg.StaticPartitionMapping(
                {name: f"variant-{name}" for name in variants}
            ),
        )


def range_tags(keys: Sequence[str]) -> dict[str, str]:
    """Return the tags of a run for ``keys``, which follow one another."""
    return {ASSET_PARTITION_RANGE_START_TAG: keys[0], ASSET_PARTITION_RANGE_END_TAG: keys[-1]}


def _experts_by_domain(experiment: Experiment) -> dict[str, list[str]]:
    """Map each domain to the recipes that its expert goes into."""
    recipes_of: dict[str, list[str]] = {}
    for name, recipe in experiment.merges.items():
        for model in recipe.model_names:
            if not model.startswith("expert:"):
                continue
            wanted = model.removeprefix("expert:")
            for domain in experiment.domain_keys if wanted == "*" else [wanted]:
                if name not in recipes_of.setdefault(domain, []):
                    recipes_of[domain].append(name)
    return recipes_of
