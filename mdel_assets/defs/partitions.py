"""Partitions of the graph, and which is made from which: both as the kinds declare them."""

import contextlib
from collections.abc import Sequence
from typing import Any

import dagster as dg
from dagster._core.storage.tags import (
    ASSET_PARTITION_RANGE_END_TAG,
    ASSET_PARTITION_RANGE_START_TAG,
)

from mdel_assets.data.kinds import shard_keys
from mdel_assets.defs.absence import PartitionsThatAre
from mdel_assets.errors import ExperimentError
from mdel_assets.experiment.experiment import Experiment
from mdel_assets.line.kind import Kind, only_one
from mdel_assets.line.lineage import Lineage


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


class Partitions:
    """The partitions of an experiment's kinds, without those that are known to be absent."""

    def __init__(self, lineage: Lineage) -> None:
        self._experiment = lineage.experiment
        self._registry = lineage.registry
        self._absent_domains = lineage.absent_domains()
        # Kinds that have their keys from the same function have the same partitions.
        self._by_keys: dict[Any, dg.StaticPartitionsDefinition] = {}

    def of(self, name: str) -> dg.StaticPartitionsDefinition | None:
        """Return the partitions of a kind; None for one with a single artifact."""
        kind = self._registry[name]
        if kind.keys is only_one:
            return None
        if kind.keys not in self._by_keys:
            self._by_keys[kind.keys] = self._new(kind)
        return self._by_keys[kind.keys]

    def _new(self, kind: Kind) -> dg.StaticPartitionsDefinition:
        if kind.keys is shard_keys:
            return ShardPartitions(self._experiment)
        keys = list(kind.keys(self._experiment))
        if kind.absent is None:
            return dg.StaticPartitionsDefinition(keys)
        return PartitionsThatAre(keys, kind.absent(self._experiment, self._absent_domains))

    def keys(self, name: str) -> list[str]:
        """Return the keys of a kind's partitions; the empty one for a single artifact."""
        partitions = self.of(name)
        return list(partitions.get_partition_keys()) if partitions else [""]

    def deps(self, name: str) -> list[dg.AssetDep]:
        """Return what a kind is made from, with the partitions of it that each partition takes."""
        kind = self._registry[name]
        present = self.keys(name)
        users: dict[str, dict[str, list[str]]] = {}
        for key in kind.keys(self._experiment):
            for entry in kind.inputs(self._experiment, key):
                of_key = users.setdefault(entry.kind, {}).setdefault(entry.key, [])
                of_key += [key] if key in present and key not in of_key else []
        return [
            dg.AssetDep(input_kind, partition_mapping=self._mapping(name, input_kind, by_key))
            for input_kind, by_key in users.items()
        ]

    def _mapping(
        self, name: str, input_kind: str, users: dict[str, list[str]]
    ) -> dg.PartitionMapping | None:
        """Return how partitions of an input map to those of a kind that use them."""
        if self.of(input_kind) is None:
            return None
        own, theirs = self.keys(name), self.keys(input_kind)
        used = {key: users.get(key, []) for key in theirs}
        are_same = self._registry[name].keys is self._registry[input_kind].keys
        if are_same and all(keys == [key] for key, keys in used.items()):
            return dg.IdentityPartitionMapping()
        if all(len(keys) == len(own) for keys in used.values()):
            return dg.AllPartitionMapping()
        if self.of(name) is None:
            return dg.SpecificPartitionsPartitionMapping([key for key in theirs if used[key]])
        return dg.StaticPartitionMapping(used)


def range_tags(keys: Sequence[str]) -> dict[str, str]:
    """Return the tags of a run for ``keys``, which follow one another."""
    return {ASSET_PARTITION_RANGE_START_TAG: keys[0], ASSET_PARTITION_RANGE_END_TAG: keys[-1]}
