"""The sensor, off by default, that notices new shard files in a watched folder."""

import contextlib
import json

import dagster as dg
from dagster._core.definitions.unresolved_asset_job_definition import (
    UnresolvedAssetJobDefinition,
)
from dagster._core.storage.dagster_run import NOT_FINISHED_STATUSES
from dagster._core.storage.tags import PARTITION_NAME_TAG

from mdel_assets.data.fetch import source_signature
from mdel_assets.errors import MdelError
from mdel_assets.line.lineage import Lineage
from mdel_assets.store.digests import text_digest


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
    Dagster repeats no run key, so a pass that failed is requested again only after something that
    it depends on has changed.
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
        cursor = json.dumps(now)
        if lineage.experiment.clusters and not lineage.artifact("corpus_clusters").is_made():
            (first,) = lineage.inputs("corpus_clusters")
            return dg.SensorResult(
                skip_reason="Documents without labels are routed by corpus_clusters, which was "
                f"never made: materialize {first.label} and corpus_clusters first.",
                cursor=cursor,
            )
        under_way = _shards_under_way(context.instance, job)
        requests = [
            dg.RunRequest(run_key=f"{key}-{signature}-{state}", partition_key=key)
            for key, signature in now.items()
            if before.get(key) == signature and key not in under_way
            if (state := _state(lineage, key))
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
            cursor=cursor,
        )

    return sensor


def _shards_under_way(
    instance: dg.DagsterInstance, job: UnresolvedAssetJobDefinition
) -> set[str | None]:
    """Return the shards of the job's runs that have not ended."""
    runs = instance.get_runs(dg.RunsFilter(job_name=job.name, statuses=NOT_FINISHED_STATUSES))
    return {run.tags.get(PARTITION_NAME_TAG) for run in runs}


def _state(lineage: Lineage, key: str) -> str:
    """Return a digest of what a shard's documents will be made from; empty if they are current."""
    if lineage.stale("shard_documents", key) is None:
        return ""
    expected = ""
    # Before the shard is fetched, that is not known.
    with contextlib.suppress(MdelError):
        expected = lineage.identity("shard_documents", key).fingerprint
    # Not why they are stale: what a store that fails says differs each time.
    return text_digest(expected)[:16]
