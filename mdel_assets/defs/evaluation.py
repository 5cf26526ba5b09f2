"""Evaluation assets: token scores, perplexity reports, the matrix."""

from typing import Any

import dagster as dg

from mdel_assets import steps_evaluation as steps
from mdel_assets.artifacts import Record
from mdel_assets.defs.metadata import OWNERS, absent, chart, provenance, table
from mdel_assets.defs.partitions import Partitions
from mdel_assets.defs.resources import Workspace
from mdel_assets.experiment import Experiment
from mdel_assets.lineage import CODE_VERSIONS, Lineage


def evaluation_assets(experiment: Experiment, partitions: Partitions) -> list[dg.AssetsDefinition]:
    """Return the assets of the group ``evaluation``."""
    models: list[Any] = [
        "seed_model",
        *(f"{key.replace('-', '_')}_baseline" for key in experiment.dense_keys),
        dg.AssetDep("expert_model", partition_mapping=partitions.expert_of_model),
    ]
    if partitions.random_split is not None:
        random = dg.AssetDep("random_split_expert", partition_mapping=partitions.random_of_model)
        models.append(random)
    if partitions.recipe is not None:
        merged = dg.AssetDep("merged_model", partition_mapping=partitions.recipe_of_model)
        models.append(merged)
    datasets = dg.AssetDep("domain_dataset", partition_mapping=dg.AllPartitionMapping())

    @dg.asset(
        group_name="evaluation",
        partitions_def=partitions.model,
        deps=[*models, datasets],
        owners=OWNERS,
        kinds={"pytorch", "parquet"},
        code_version=CODE_VERSIONS["token_scores"],
        check_specs=[dg.AssetCheckSpec("every_token_scored", asset="token_scores", blocking=True)],
        pool="gpu",
    )
    def token_scores(
        context: dg.AssetExecutionContext, workspace: Workspace
    ) -> dg.MaterializeResult:
        """Log-probability of every token of every evaluation document under one model.

        The model is loaded once, a document that several datasets share is scored once, and
        documents that were scored before are kept. Every token is scored exactly once over rolling
        windows of `evaluation.max_length`.
        """
        lineage = workspace.lineage(experiment)
        model = context.partition_key
        if _is_absent(lineage, model):
            return absent(model, "every_token_scored")
        record = steps.score(lineage, model)
        artifact = lineage.store.scores(model)
        return dg.MaterializeResult(
            metadata={
                "dagster/row_count": record.counts["num_documents"],
                **record.counts,
                **provenance(record, artifact),
            },
            check_results=[_every_token_scored(record, artifact)],
        )

    @dg.asset(
        group_name="evaluation",
        partitions_def=partitions.model,
        deps=[token_scores],
        owners=OWNERS,
        kinds={"json"},
        code_version=CODE_VERSIONS["perplexity_report"],
        check_specs=[
            dg.AssetCheckSpec("figures_are_consistent", asset="perplexity_report", blocking=True)
        ],
    )
    def perplexity_report(
        context: dg.AssetExecutionContext, workspace: Workspace
    ) -> dg.MaterializeResult:
        """One model's table: perplexity and bits per byte on every dataset and split.

        Intervals are 95 % intervals of a document bootstrap.
        """
        lineage = workspace.lineage(experiment)
        model = context.partition_key
        if _is_absent(lineage, model):
            return absent(model, "figures_are_consistent")
        record = steps.report(lineage, model)
        return dg.MaterializeResult(
            metadata={
                **_report_metadata(record),
                **provenance(record, lineage.store.report(model)),
            },
            check_results=[_figures_are_consistent(record)],
        )

    @dg.asset(
        group_name="evaluation",
        deps=[dg.AssetDep(perplexity_report, partition_mapping=dg.AllPartitionMapping())],
        owners=OWNERS,
        kinds={"parquet", "markdown"},
        code_version=CODE_VERSIONS["perplexity_matrix"],
        check_specs=[dg.AssetCheckSpec("matrix_is_complete", asset="perplexity_matrix")],
    )
    def perplexity_matrix(workspace: Workspace) -> dg.MaterializeResult:
        """Every model on every domain and split: what was worth its training.

        Heatmap, Markdown and Parquet, with averages over domains and paired differences to the
        seed model.
        """
        lineage = workspace.lineage(experiment)
        record = steps.make_matrix(lineage)
        missing = record.details["missing"]
        complete = dg.AssetCheckResult(
            passed=not missing,
            check_name="matrix_is_complete",
            metadata={"missing_cells": dg.MetadataValue.json(missing)},
        )
        return dg.MaterializeResult(
            metadata={**_matrix_metadata(lineage), **provenance(record, lineage.store.matrix())},
            check_results=[complete],
        )

    return [token_scores, perplexity_report, perplexity_matrix]


def _is_absent(lineage: Lineage, model: str) -> bool:
    return model not in lineage.present_models()


def _every_token_scored(record: Record, artifact: Any) -> dg.AssetCheckResult:
    """Compare tokens counted with log-probabilities stored, and look for a positive one."""
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    from mdel_assets.evaluation.token_scores import DOCUMENTS_NAME

    stored = pq.read_table(artifact.folder / DOCUMENTS_NAME)
    values = pc.list_flatten(stored.column("log_probabilities"))
    highest = pc.max(values).as_py() if len(values) else 0.0
    return dg.AssetCheckResult(
        passed=len(values) == record.counts["num_tokens"] and highest <= 1e-5,
        check_name="every_token_scored",
        metadata={"tokens": record.counts["num_tokens"], "log_probabilities": len(values)},
    )


def _figures_are_consistent(record: Record) -> dg.AssetCheckResult:
    """Look for a figure outside its own interval, or a perplexity below 1."""
    wrong = [
        f"{row['dataset']}/{row['split']}"
        for row in record.details["rows"]
        if row["num_bytes"]
        and not (
            row["bits_per_byte_low"] <= row["bits_per_byte"] <= row["bits_per_byte_high"]
            and row["perplexity"] >= 1.0
        )
    ]
    return dg.AssetCheckResult(
        passed=not wrong,
        check_name="figures_are_consistent",
        severity=dg.AssetCheckSeverity.WARN,
        metadata={"doubtful": dg.MetadataValue.json(wrong)},
    )


def _report_metadata(record: Record) -> dict[str, Any]:
    from mdel_assets.charts import bar_chart

    rows = record.details["rows"]
    shown = [
        {
            "dataset": row["dataset"],
            "split": row["split"],
            "bits_per_byte": _rounded(row["bits_per_byte"]),
            "low": _rounded(row["bits_per_byte_low"]),
            "high": _rounded(row["bits_per_byte_high"]),
            "perplexity": _rounded(row["perplexity"]),
            "num_documents": row["num_documents"],
            "num_tokens": row["num_tokens"],
        }
        for row in rows
    ]
    split = rows[0]["split"]
    bits = {
        r["dataset"]: r["bits_per_byte"] for r in rows if r["split"] == split and r["num_bytes"]
    }
    drawn = bar_chart(bits, x_label="bits per byte (lower is better)", title=split)
    return {"perplexity": table(shown), "bits_per_byte": chart(drawn, "bits per byte")}


def _matrix_metadata(lineage: Lineage) -> dict[str, Any]:
    from mdel_assets.evaluation.findings import findings
    from mdel_assets.evaluation.heatmap import heatmap_figure
    from mdel_assets.evaluation.matrix_markdown import matrix_markdown

    matrix = steps.read_matrix(lineage)
    return {
        "heatmap": chart(heatmap_figure(matrix, num_panels=1), "perplexity matrix"),
        "findings": dg.MetadataValue.md("\n".join(f"- {line}" for line in findings(matrix))),
        "tables": dg.MetadataValue.md(matrix_markdown(matrix)),
        "num_models": len(matrix.models),
        "num_datasets": len(matrix.datasets),
    }


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 4)
