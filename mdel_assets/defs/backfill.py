"""Several partitions of one asset: which are meant, and running them without a daemon."""

from collections.abc import Callable, Collection, Iterator, Sequence

import dagster as dg

from mdel_assets.defs.absence import PartitionsThatAre
from mdel_assets.defs.launch import Runner, RunOutcome
from mdel_assets.errors import UnknownKeyError, unknown_name_message
from mdel_assets.line.lineage import Lineage


def select_partitions(
    definitions: dg.Definitions, lineage: Lineage, *, asset: str, selection: str
) -> dict[str, str]:
    """Return the partitions that ``selection`` means, each with why a run would make it anew.

    They come in the asset's own order. ``selection`` is ``all``, ``stale`` or keys with commas
    between. Domains that the corpus is known to lack are in none of them. The reason is empty
    where nothing is to be done.

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
    """Run the partitions in this process, one after the other, yielding what became of each.

    Partitions that are made together, and follow one another, are one run. A failed one does not
    stop the others; ``on_start`` is told the first partition of each run before it begins.
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
            f"{asset} has no partitions, so there are not several to make. Run 'mdel dg "
            f"launch --assets {asset}', or 'mdel run' for everything that is missing."
        )


def _reason(lineage: Lineage, asset: str, key: str) -> str:
    if asset.startswith("hub_"):
        return "publishing looks for itself what is new"
    stale = lineage.stale(asset, key)
    return stale.reason if stale else ""


def _neighbours(keys: Sequence[str], all_keys: Sequence[str]) -> list[list[str]]:
    """Return ``keys`` in order, those together that follow one another in ``all_keys``."""
    groups: list[list[str]] = []
    last = -2
    for place in sorted(all_keys.index(key) for key in keys):
        if place == last + 1:
            groups[-1].append(all_keys[place])
        else:
            groups.append([all_keys[place]])
        last = place
    return groups
