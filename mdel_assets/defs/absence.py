"""Absent partitions: domains that the corpus lacks, and models of them.

They are read from the records of shards and datasets when the definitions are loaded. An absent key
is not a partition: nothing lists, misses or requests it. A run may still name it, also as the start
or end of a range; the run then says that it is absent and records nothing as made.
"""

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Concatenate, ParamSpec

import dagster as dg
from dagster._core.storage.tags import BACKFILL_ID_TAG

from mdel_assets.defs.failures import in_words

_Resources = ParamSpec("_Resources")


class PartitionsThatAre(dg.StaticPartitionsDefinition):
    """The ``declared`` keys without those of ``absent``, which gives each one's reason."""

    def __init__(self, declared: Sequence[str], absent: Mapping[str, str]) -> None:
        self.declared = list(declared)
        self.absent = absent
        super().__init__([key for key in declared if key not in absent])

    def has_partition_key(self, partition_key: str) -> bool:
        """Whether a run may name ``partition_key``."""
        return partition_key in self.declared

    def get_partition_keys_in_range(
        self, partition_key_range: dg.PartitionKeyRange
    ) -> Sequence[str]:
        """Return the present keys of a range; if there are none, the absent ones."""
        asked = self.declared_in_range(partition_key_range)
        return [key for key in asked if key not in self.absent] or asked

    def declared_in_range(self, partition_key_range: dg.PartitionKeyRange) -> list[str]:
        """Return all keys of a range, including absent ones.

        Raises:
            DagsterInvalidInvocationError: the experiment does not declare the first or the last.

        """
        ends = (partition_key_range.start, partition_key_range.end)
        if not all(map(self.has_partition_key, ends)):
            super().get_partition_keys_in_range(partition_key_range)
        first, last = map(self.declared.index, ends)
        return self.declared[first : last + 1]


def leaving_out_absent(
    compute: Callable[Concatenate[dg.AssetExecutionContext, _Resources], dg.MaterializeResult],
) -> Callable[Concatenate[dg.AssetExecutionContext, _Resources], Iterator[Any]]:
    """Let the function of an asset with `PartitionsThatAre` see only present partitions.

    For absent partitions of the run, the log and an observation give the reason. A backfill would
    wait for them forever, so its runs record them as materialized, and as absent. The asset needs
    ``output_required=False``.
    """

    @functools.wraps(compute)
    def run(
        context: dg.AssetExecutionContext,
        /,
        *args: _Resources.args,
        **resources: _Resources.kwargs,
    ) -> Iterator[Any]:
        partitions = context.assets_def.partitions_def
        assert isinstance(partitions, PartitionsThatAre)
        asked = partitions.declared_in_range(context.partition_key_range)
        absent = {key: partitions.absent[key] for key in asked if key in partitions.absent}
        is_waited_for = BACKFILL_ID_TAG in context.run.tags
        event = dg.AssetMaterialization if is_waited_for else dg.AssetObservation
        for key, reason in absent.items():
            context.log.warning(reason)
            seen = event(context.asset_key, partition=key, metadata={"state": reason})
            context.log_event(seen)
        if len(absent) < len(asked):
            # `failing_in_words` does not see what happens while results are consumed.
            yield in_words(compute)(context, *args, **resources)
            return
        for spec in context.assets_def.check_specs:
            yield dg.AssetCheckResult(
                passed=True, check_name=spec.name, description="absent: nothing to check"
            )

    return run
