"""Backfills of one asset: select the partitions, and run them without a daemon."""

from collections.abc import Callable, Collection, Iterator, Sequence

import dagster as dg

from mdel_assets.defs.absence import PartitionsThatAre
from mdel_assets.defs.launch import Runner, RunOutcome
from mdel_assets.errors import UnknownKeyError, unknown_name_message
from mdel_assets.line.lineage import Lineage


def select_partitions(
    definitions: dg.Definitions, lineage: Lineage, *, asset: str, selection: str
) -> dict[str, str]:
    """Return the selected partitions, each with the reason why a run would remake it.

    They come in the asset's own order. ``selection`` is ``all``, ``stale`` or comma-separated keys.
    Domains that the corpus is known to lack are left out. The reason is empty for a partition that
    is up to date.

    Raises:
        UnknownKeyError: no such asset or partition, or an asset without partitions.

    """
    partitions = _partitions(definitions, asset)
    known = list(partitions.get_partition_keys())
    absent = partitions.absent if isinstance(partitions, PartitionsThatAre) else {}
    if selection in ("all", "stale"):
        wanted = known
    else:
        named = [key for part in selection.split(",") if (key := part.strip())]
        for key in named:
            if key in absent:
                raise UnknownKeyError(f"{asset} has no partition '{key}': {absent[key]}.")
            if key not in known:
                raise UnknownKeyError(unknown_name_message(f"partition of {asset}", key, known))
        wanted = [key for key in known if key in named]
    reasons = {key: _reason(lineage, asset, key) for key in wanted}
    if selection == "stale":
        return {key: reason for key, reason in reasons.items() if reason}
    return reasons


def backfill_here(
    definitions: dg.Definitions,
    lineage: Lineage,
    *,
    instance: dg.DagsterInstance,
    asset: str,
    keys: Sequence[str],
    on_start: Callable[[str], None],
) -> Iterator[RunOutcome]:
    """Run the partitions in this process, one after another, and yield each run's outcome.

    Adjacent partitions of an asset that makes them together are one run. A failed run does not stop
    the others. ``on_start`` is called with the first partition of each run before it begins.
    """
    runner = Runner(definitions, instance, lineage)
    all_keys = list(_partitions(definitions, asset).get_partition_keys())
    groups = (
        _neighbours(keys, all_keys) if runner.makes_together(asset) else [[key] for key in keys]
    )
    for group in groups:
        on_start(group[0])
        one = len(group) == 1
        yield (outcome := runner.run(asset, *group) if one else runner.run_range(asset, group))
        if outcome.ends_line:
            return


def _partitions(definitions: dg.Definitions, asset: str) -> dg.PartitionsDefinition:
    graph = definitions.resolve_asset_graph()
    partitioned = {
        key.path[-1]: node.partitions_def
        for key in graph.get_all_asset_keys()
        if (node := graph.get(key)).partitions_def is not None
    }
    if asset not in partitioned:
        _refuse_without_partitions(asset, {key.path[-1] for key in graph.get_all_asset_keys()})
        raise UnknownKeyError(unknown_name_message("partitioned asset", asset, sorted(partitioned)))
    return partitioned[asset]


def _refuse_without_partitions(asset: str, known: Collection[str]) -> None:
    if asset in known:
        raise UnknownKeyError(
            f"{asset} has no partitions. Run 'mdel dg launch --assets {asset}' to make it, or "
            f"'mdel run' for everything that is missing."
        )


def _reason(lineage: Lineage, asset: str, key: str) -> str:
    if asset.startswith("hub_"):
        return "publishing finds out itself what is new"
    stale = lineage.stale(asset, key)
    return stale.reason if stale else ""


def _neighbours(keys: Sequence[str], all_keys: Sequence[str]) -> list[list[str]]:
    """Return ``keys`` in order, grouped into runs that are adjacent in ``all_keys``."""
    groups: list[list[str]] = []
    last = -2
    for place in sorted(all_keys.index(key) for key in keys):
        if place == last + 1:
            groups[-1].append(all_keys[place])
        else:
            groups.append([all_keys[place]])
        last = place
    return groups
