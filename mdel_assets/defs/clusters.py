"""The asset that finds domains in a corpus without labels."""

from typing import Any

import dagster as dg

from mdel_assets.defs.compute import Compute
from mdel_assets.defs.line_assets import LineAssets
from mdel_assets.defs.metadata import chart, result_of, table
from mdel_assets.defs.resources import Workspace
from mdel_assets.experiment.experiment import Experiment
from mdel_assets.store.records import Record

_CHECK = "clusters_are_balanced"
_MAX_IMBALANCE = 1.5


def cluster_assets(line: LineAssets) -> list[dg.AssetsDefinition]:
    """Return the asset `corpus_clusters`; none where the corpus has labels."""
    experiment = line.experiment
    if not line.has("corpus_clusters"):
        return []

    @line.asset(
        "corpus_clusters",
        group="data",
        icons={"scikitlearn", "safetensors"},
        checks={
            _CHECK: "Warns where a cluster has more than 1.5 times, or less than 1 / 1.5 of, an "
            "even share of the documents."
        },
    )
    def corpus_clusters(
        context: dg.AssetExecutionContext, workspace: Workspace, compute: Compute
    ) -> dg.MaterializeResult:
        """The domains of a corpus without labels: clusters of documents on similar topics.

        Balanced k-means on TF-IDF features of the first train shard (c-BTM). The page shows each
        cluster with its most characteristic words.
        """
        lineage = workspace.lineage(experiment)
        made = compute.made(context, lineage, [""])
        made.raise_failures()
        record = made.records[""]
        return result_of(
            record,
            lineage.artifact("corpus_clusters"),
            _clusters_metadata(experiment, record),
            _are_balanced(record),
        )

    return [corpus_clusters]


def _clusters_metadata(experiment: Experiment, record: Record) -> dict[str, Any]:
    from mdel_assets.charts import bar_chart

    terms, sizes = record.details["terms"], record.details["sizes"]
    rows = [
        {"cluster": key, "num_documents": size, "words": ", ".join(words)}
        for key, size, words in zip(experiment.domain_keys, sizes, terms, strict=True)
    ]
    bars = {
        f"{row['cluster']}: {', '.join(words[:3])}": row["num_documents"]
        for row, words in zip(rows, terms, strict=True)
    }
    drawn = bar_chart(bars, x_label="documents of the sample", title="Clusters")
    return {"clusters": table(rows), "sizes": chart(drawn, "clusters")}


def _are_balanced(record: Record) -> dg.AssetCheckResult:
    """Warn if a cluster has more than 1.5 times, or less than 1 / 1.5 of, an even share."""
    sizes = record.details["sizes"]
    even = sum(sizes) / len(sizes)
    worst = max(max(sizes) / even, even / max(1, min(sizes)))
    return dg.AssetCheckResult(
        passed=worst <= _MAX_IMBALANCE,
        check_name=_CHECK,
        severity=dg.AssetCheckSeverity.WARN,
        metadata={"sizes": dg.MetadataValue.json(sizes), "worst": round(worst, 3)},
    )
