"""Automation: schedules, sensors, and assets that follow their inputs.

All of it is off by default; the web UI's page "Automation" turns it on. An asset is requested as
soon as its fingerprint would change, all its inputs exist, and they passed their blocking checks. A
failed run is repeated only after an input changes again.
"""

import dataclasses
from collections.abc import Iterable, Sequence

import dagster as dg
from dagster._core.definitions.events import AssetKeyPartitionKey
from dagster._core.definitions.unresolved_asset_job_definition import (
    UnresolvedAssetJobDefinition,
)

from mdel_assets.defs import schedules, sensors
from mdel_assets.defs.line_assets import LineAssets
from mdel_assets.line.lineage import Lineage
from mdel_assets.line.what_is_stale import could_be_made


class CouldBeMade(dg.AutomationCondition[dg.AssetKey]):
    """True for stale or missing partitions whose inputs all exist.

    It compares fingerprints, so changed settings and code count as much as changed inputs, and
    artifacts made outside this Dagster instance count, too.
    """

    def __init__(self, lineage: Lineage) -> None:
        self.lineage = lineage

    @property
    def name(self) -> str:
        """The name in the web UI."""
        return "fingerprint_changed_and_inputs_there"

    def evaluate(self, context: dg.AutomationContext) -> dg.AutomationResult:
        """Return the partitions, or the whole asset, for which the condition is true."""
        kind = context.key.path[-1]
        view, candidates = context.asset_graph_view, context.candidate_subset
        if not context.partitions_def:
            is_true = not candidates.is_empty and could_be_made(self.lineage, kind)
            return dg.AutomationResult(
                context, candidates if is_true else context.get_empty_subset()
            )
        keys = candidates.expensively_compute_partition_keys()
        found = {
            AssetKeyPartitionKey(context.key, key)
            for key in keys
            if could_be_made(self.lineage, kind, key)
        }
        return dg.AutomationResult(
            context, view.get_asset_subset_from_asset_partitions(context.key, found)
        )


def following_condition(lineage: Lineage) -> dg.AutomationCondition:
    """Return the condition under which an asset that follows its inputs is requested."""
    could_be = CouldBeMade(lineage)
    has_news = could_be.newly_true() | dg.AutomationCondition.any_deps_updated()
    failed = dg.AutomationCondition.any_checks_match(
        dg.AutomationCondition.check_failed(), blocking_only=True
    )
    handled = dg.AutomationCondition.newly_requested() | dg.AutomationCondition.newly_updated()
    return (
        has_news.since(handled).with_label("news since it was last requested or made")
        & could_be
        & ~dg.AutomationCondition.any_deps_match(failed).with_label("an input failed its check")
        & ~dg.AutomationCondition.any_deps_in_progress()
        & ~dg.AutomationCondition.in_progress()
    ).with_label("follows its inputs")


def follow_inputs(
    assets: Iterable[dg.AssetsDefinition], lineage: Lineage
) -> list[dg.AssetsDefinition]:
    """Return the assets, those of kinds that follow their inputs with their condition."""
    condition = following_condition(lineage)

    def follow(spec: dg.AssetSpec) -> dg.AssetSpec:
        kind = lineage.registry.get(spec.key.path[-1])
        if kind is None or not kind.follows_inputs:
            return spec
        return spec.replace_attributes(automation_condition=condition)

    return list(dg.map_asset_specs(follow, assets))


def following_sensor(lineage: Lineage) -> dg.AutomationConditionSensorDefinition:
    """Return the sensor, stopped, that requests assets that follow their inputs."""
    followers = [kind for kind in lineage.kinds() if lineage.registry[kind].follows_inputs]
    return dg.AutomationConditionSensorDefinition(
        "follow_inputs",
        target=dg.AssetSelection.assets(*followers),
        use_user_code_server=True,
        minimum_interval_seconds=60,
        description="Remakes datasets, merged models and reports as soon as their inputs have "
        "changed and passed their blocking checks.",
    )


@dataclasses.dataclass(frozen=True)
class Automation:
    """What runs by itself, and the jobs that it requests."""

    jobs: Sequence[UnresolvedAssetJobDefinition]
    schedules: Sequence[dg.ScheduleDefinition]
    sensors: Sequence[dg.SensorDefinition]


def automation_of(line: LineAssets) -> Automation:
    """Return all automation over the assets of ``line``."""
    lineage = line.lineage
    experts, reports = schedules.expert_job(), schedules.report_job(lineage)
    shards = sensors.shard_job()
    return Automation(
        jobs=[experts, reports, shards],
        schedules=[
            schedules.nightly_experts(lineage, experts),
            schedules.weekly_report(lineage, reports, line.partitions),
        ],
        sensors=[sensors.new_shards(lineage, shards), following_sensor(lineage)],
    )
