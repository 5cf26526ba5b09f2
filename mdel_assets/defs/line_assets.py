"""Dagster assets of the experiment's kinds: what a kind declares is not said again.

Name, partitions, dependencies and code version come from the kind; a module of `defs/` adds what is
Dagster's: description, checks, metadata, pool. Experiments differ in which kinds they have and in
their partitions, so assets are built for one experiment, in functions.
"""

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import dagster as dg

from mdel_assets.defs.absence import PartitionsThatAre, leaving_out_absent
from mdel_assets.defs.metadata import OWNERS
from mdel_assets.defs.partitions import Partitions
from mdel_assets.line.lineage import Lineage

AllInOneRun = dg.BackfillPolicy.single_run


class LineAssets:
    """Builds the assets of one experiment's kinds."""

    def __init__(self, lineage: Lineage) -> None:
        self.lineage = lineage
        self.experiment = lineage.experiment
        self.partitions = Partitions(lineage)

    def has(self, kind: str) -> bool:
        """Whether the experiment has a kind."""
        return self.lineage.registry[kind].is_in(self.experiment)

    def asset(
        self,
        kind: str,
        *,
        group: str,
        icons: set[str],
        blocking_checks: Mapping[str, str] | None = None,
        checks: Mapping[str, str] | None = None,
        pool: str | None = None,
        backfill_policy: dg.BackfillPolicy | None = None,
        metadata: Mapping[str, Any] | None = None,
        description: str | None = None,
    ) -> Callable[[Callable[..., Any]], dg.AssetsDefinition]:
        """Return the decorator that makes a function the asset of ``kind``.

        ``icons`` are what the web UI shows as the asset's kinds. ``blocking_checks`` and ``checks``
        are descriptions by name; what fails a blocking one is not built on. ``description`` is the
        function's docstring where it is left out.
        """
        partitions_def = self.partitions.of(kind)
        may_be_absent = isinstance(partitions_def, PartitionsThatAre)
        descriptions = {**(blocking_checks or {}), **(checks or {})}
        decorate = dg.asset(
            name=kind,
            group_name=group,
            partitions_def=partitions_def,
            deps=self.partitions.deps(kind),
            owners=OWNERS,
            kinds=icons,
            code_version=self.lineage.registry[kind].code_version,
            check_specs=[
                dg.AssetCheckSpec(
                    name, asset=kind, description=words, blocking=name in (blocking_checks or {})
                )
                for name, words in descriptions.items()
            ],
            pool=pool,
            backfill_policy=backfill_policy,
            metadata=metadata,
            description=inspect.cleandoc(description) if description else None,
            output_required=not may_be_absent,
        )

        def build(compute: Callable[..., Any]) -> dg.AssetsDefinition:
            found = leaving_out_absent(compute) if may_be_absent else compute
            asset: dg.AssetsDefinition = decorate(found)
            return asset

        return build
