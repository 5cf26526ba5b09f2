"""The sensor, off by default, that notices new shard files in a watched folder."""

import json

import dagster as dg
from dagster._core.definitions.unresolved_asset_job_definition import (
    UnresolvedAssetJobDefinition,
)

from mdel_assets.data.fetch import source_signature
from mdel_assets.line.lineage import Lineage


def shard_job() -> UnresolvedAssetJobDefinition:
    """Return the job that fetches one shard and routes its documents."""
    return dg.define_asset_job(
        "pass_over_shard",
        selection=dg.AssetSelection.assets("raw_pile_shard", "shard_documents"),
        description="Fetches one shard and routes its documents to their domains.",
    )


def new_shards(lineage: Lineage, job: UnresolvedAssetJobDefinition) -> dg.SensorDefinition:
    """Return the sensor, off by default, that requests the pass over new or changed local shards.

    A file is requested once it was the same at two ticks, so that files still being copied wait.
    """

    @dg.sensor(
        name="new_shards",
        job=job,
        minimum_interval_seconds=60,
        description="Watches the local paths, folders and globs of `source`. A new or changed file "
        "is fetched and routed as soon as it has stopped growing.",
    )
    def sensor(context: dg.SensorEvaluationContext) -> dg.SensorResult:
        before = json.loads(context.cursor or "{}")
        now = {
            shard.key: signature
            for shard in lineage.experiment.shards()
            if "://" not in shard.location
            if (signature := source_signature(shard.location))
        }
        requests = [
            dg.RunRequest(run_key=f"{key}-{signature}", partition_key=key)
            for key, signature in now.items()
            if before.get(key) == signature and lineage.stale("shard_documents", key)
        ]
        growing = [key for key, signature in now.items() if before.get(key) != signature]
        reason = (
            f"{', '.join(growing)}: new or changed; requested once it has stopped growing"
            if growing
            else "Every local shard was routed or requested."
        )
        return dg.SensorResult(
            run_requests=requests,
            skip_reason=None if requests else reason,
            cursor=json.dumps(now),
        )

    return sensor
