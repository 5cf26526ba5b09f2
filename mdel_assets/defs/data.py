"""Data assets: raw shard, routed documents, domain datasets."""

from pathlib import Path
from typing import Any

import dagster as dg

from mdel_assets import steps
from mdel_assets.artifacts import Artifact, Record
from mdel_assets.data.fetch import sha256_of
from mdel_assets.defs.metadata import OWNERS, chart, preview, provenance, table, text_schema
from mdel_assets.defs.partitions import Partitions
from mdel_assets.defs.resources import Workspace
from mdel_assets.experiment import Experiment
from mdel_assets.experiment_fields import SPLITS
from mdel_assets.lineage import CODE_VERSIONS

_NUM_SAMPLE_ROWS = 5


def data_assets(experiment: Experiment, partitions: Partitions) -> list[dg.AssetsDefinition]:
    """Return the assets of the group ``data``."""

    @dg.asset(
        group_name="data",
        partitions_def=partitions.shard,
        owners=OWNERS,
        kinds={"file"},
        code_version=CODE_VERSIONS["raw_pile_shard"],
        check_specs=[dg.AssetCheckSpec("shard_is_whole", asset="raw_pile_shard", blocking=True)],
        pool="io",
    )
    def raw_pile_shard(
        context: dg.AssetExecutionContext, workspace: Workspace
    ) -> dg.MaterializeResult:
        """One file of the corpus, fetched from a path, an https address or the Hub, and verified.

        Size and sha256 are recorded, and compared with `source.sha256` where the experiment gives
        one. A download that is cut goes on where it stopped.
        """
        lineage = workspace.lineage(experiment)
        shard = context.partition_key
        record = steps.fetch_raw_shard(lineage, shard, cache=workspace.home.cache)
        artifact = lineage.store.shard(shard)
        seen = sha256_of(artifact.folder / record.details["file"])
        metadata = {
            "location": record.details["location"],
            "role": record.details["role"],
            "size_bytes": record.counts["size_bytes"],
            "sha256": record.config["sha256"],
            **provenance(record, artifact),
        }
        is_whole = dg.AssetCheckResult(
            passed=seen == record.config["sha256"],
            check_name="shard_is_whole",
            metadata={"sha256_now": seen, "sha256_recorded": record.config["sha256"]},
        )
        return dg.MaterializeResult(metadata=metadata, check_results=[is_whole])

    @dg.asset(
        group_name="data",
        partitions_def=partitions.shard,
        deps=[raw_pile_shard],
        owners=OWNERS,
        kinds={"parquet"},
        code_version=CODE_VERSIONS["shard_documents"],
        metadata={"dagster/column_schema": text_schema("text", "document_id")},
        check_specs=[
            dg.AssetCheckSpec("every_line_is_counted", asset="shard_documents", blocking=True)
        ],
        pool="cpu",
    )
    def shard_documents(
        context: dg.AssetExecutionContext, workspace: Workspace
    ) -> dg.MaterializeResult:
        """All documents of one shard, routed to one Parquet file per domain in a single pass.

        Rejected lines are kept in `rejects.parquet` with line number and reason. A shard that is
        truncated, corrupt, or dirtier than `source.max_reject_rate` is refused.
        """
        lineage = workspace.lineage(experiment)
        record = steps.route_shard(lineage, context.partition_key)
        artifact = lineage.store.documents(context.partition_key)
        return dg.MaterializeResult(
            metadata={**_shard_metadata(record), **provenance(record, artifact)},
            check_results=[_every_line_is_counted(record, artifact)],
        )

    @dg.asset(
        group_name="data",
        partitions_def=partitions.domain,
        deps=[dg.AssetDep(shard_documents, partition_mapping=dg.AllPartitionMapping())],
        backfill_policy=dg.BackfillPolicy.single_run(),
        owners=OWNERS,
        kinds={"parquet", "huggingface"},
        code_version=CODE_VERSIONS["domain_dataset"],
        metadata={"dagster/column_schema": text_schema("text", "document_id", "domain")},
        check_specs=[
            dg.AssetCheckSpec("splits_are_disjoint", asset="domain_dataset", blocking=True)
        ],
        pool="cpu",
    )
    def domain_dataset(
        context: dg.AssetExecutionContext, workspace: Workspace
    ) -> dg.MaterializeResult:
        """One domain's dataset: all its documents, an equal general half, five splits.

        The general half is drawn from the other domains by a seeded hash. No document is in two
        splits; copies within and across shards are removed. Load it with
        `datasets.load_dataset(folder)`. A domain that the corpus lacks is shown as absent.
        """
        lineage = workspace.lineage(experiment)
        keys = [key for key in experiment.domain_keys if key in set(context.partition_keys)]
        records = steps.assemble_domain_datasets(lineage, keys)
        for key, record in records.items():
            artifact = lineage.store.dataset(key)
            metadata = {**_dataset_metadata(record, artifact), **provenance(record, artifact)}
            context.add_asset_metadata(metadata, partition_key=key)
        shared = {key: record.counts["num_shared_documents"] for key, record in records.items()}
        disjoint = dg.AssetCheckResult(
            passed=not any(shared.values()),
            check_name="splits_are_disjoint",
            metadata={"documents_in_two_splits": dg.MetadataValue.json(shared)},
        )
        return dg.MaterializeResult(check_results=[disjoint])

    return [raw_pile_shard, shard_documents, domain_dataset]


def _every_line_is_counted(record: Record, artifact: Artifact) -> dg.AssetCheckResult:
    """Compare the lines read with the rows that lie in the Parquet files and the blank lines."""
    import pyarrow.parquet as pq

    counts = record.counts
    rows = sum(pq.read_metadata(path).num_rows for path in artifact.folder.glob("*.parquet"))
    became = rows + counts["num_blank_lines"]
    return dg.AssetCheckResult(
        passed=counts["num_lines"] == became,
        check_name="every_line_is_counted",
        metadata={"lines_in": counts["num_lines"], "rows_and_blank_lines_out": became},
    )


def _shard_metadata(record: Record) -> dict[str, Any]:
    from mdel_assets.charts import bar_chart

    counts = record.counts
    domains = sorted(counts["domains"].items(), key=lambda item: -item[1]["num_bytes"])
    sizes = {key: found["num_bytes"] / 1e6 for key, found in domains}
    return {
        "dagster/row_count": counts["num_documents"],
        "num_lines": counts["num_lines"],
        "num_rejects": counts["num_rejects"],
        "num_repaired": counts["num_repaired"],
        "rejects_by_reason": dg.MetadataValue.json(counts["rejects"]),
        "unknown_labels": dg.MetadataValue.json(counts["unknown_labels"]),
        "text_by_domain": chart(
            bar_chart(sizes, x_label="MB of text", title="Text by domain"), "text"
        ),
        "domains": table(
            [
                {
                    "domain": key,
                    "num_documents": found["num_documents"],
                    "num_bytes": found["num_bytes"],
                    "share_of_bytes": round(found["num_bytes"] / max(1, counts["num_bytes"]), 4),
                }
                for key, found in domains
            ]
        ),
    }


def _dataset_metadata(record: Record, artifact: Artifact) -> dict[str, Any]:
    if not record.counts["train"]["num_domain_documents"]:
        return {"state": f"absent: the corpus has no training document of '{record.key}'"}
    rows = [
        {"split": split, **{name: record.counts[split][name] for name in _SPLIT_COLUMNS}}
        for split in SPLITS
    ]
    return {
        "state": "present",
        "dagster/row_count": sum(row["num_documents"] for row in rows),
        "splits": table(rows),
        "removed_from_corpus": dg.MetadataValue.json(record.details["removed_from_corpus"]),
        "sample": table(_sample_rows(artifact.folder / "train.parquet")),
    }


_SPLIT_COLUMNS = (
    "num_documents",
    "num_domain_documents",
    "num_general_documents",
    "num_bytes",
    "num_domain_bytes",
)


def _sample_rows(path: Path) -> list[dict[str, str]]:
    import pyarrow.parquet as pq

    first = next(pq.ParquetFile(path).iter_batches(_NUM_SAMPLE_ROWS), None)
    rows = first.to_pylist() if first else []
    return [{"domain": row["domain"], "text": preview(row["text"])} for row in rows]
