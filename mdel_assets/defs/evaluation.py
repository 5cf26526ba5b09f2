"""Evaluation assets: token scores, perplexity reports, the matrix."""

import logging
from collections.abc import Sequence
from typing import Any

import dagster as dg

from mdel_assets import steps_evaluation as steps
from mdel_assets.artifacts import Artifact, Record
from mdel_assets.defs import columns
from mdel_assets.defs.absence import leaving_out_absent
from mdel_assets.defs.compute import raise_where_cancelled
from mdel_assets.defs.evaluation_checks import (
    every_token_scored,
    figures_are_consistent,
    no_worse_than_before,
)
from mdel_assets.defs.metadata import (
    OWNERS,
    chart,
    link,
    page,
    rounded,
    table,
)
from mdel_assets.defs.partitions import Partitions
from mdel_assets.defs.resources import Tracking, Workspace
from mdel_assets.errors import ScoringError, TrainingInterruptedError
from mdel_assets.experiment import Experiment
from mdel_assets.lineage import CODE_VERSIONS, Lineage
from mdel_assets.what_is_stale import what_is_stale

_log = logging.getLogger(__name__)


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
    if partitions.variant is not None:
        swept = dg.AssetDep("variant_expert", partition_mapping=partitions.variant_of_model)
        models.append(swept)
    if partitions.recipe is not None:
        merged = dg.AssetDep("merged_model", partition_mapping=partitions.recipe_of_model)
        models.append(merged)
    if partitions.reference is not None:
        named = dg.AssetDep("reference_model", partition_mapping=partitions.reference_of_model)
        models.append(named)
    datasets = dg.AssetDep("domain_dataset", partition_mapping=dg.AllPartitionMapping())

    @dg.asset(
        group_name="evaluation",
        output_required=False,
        partitions_def=partitions.model,
        deps=[*models, datasets],
        owners=OWNERS,
        kinds={"pytorch", "parquet"},
        code_version=CODE_VERSIONS["token_scores"],
        metadata=columns.below(columns.TOKEN_SCORES),
        check_specs=[
            dg.AssetCheckSpec(
                "every_token_scored",
                asset="token_scores",
                blocking=True,
                description="One log-probability for each token that was counted, none above 0.",
            )
        ],
        backfill_policy=dg.BackfillPolicy.single_run(),
        pool="gpu",
    )
    @leaving_out_absent
    def token_scores(
        context: dg.AssetExecutionContext, workspace: Workspace
    ) -> dg.MaterializeResult:
        """Log-probability of every token of every evaluation document under one model.

        Every token is scored exactly once over rolling windows of `evaluation.max_length`. The
        models of a run are scored together: layers that they share run once, a document that
        several datasets share is scored once, and documents that were scored before are kept.
        """
        lineage = workspace.lineage(experiment)
        keys = context.partition_keys
        states = _states(lineage, keys)
        try:
            scored = steps.score_side_by_side(lineage, [key for key in keys if key not in states])
        except TrainingInterruptedError as error:
            raise_where_cancelled(error)
            raise
        metadata = {
            key: states[key]
            if key in states
            else _scores_metadata(scored.records[key], lineage.store.scores(key))
            for key in keys
            if key not in scored.failures
        }
        if scored.failures:
            # What was scored stands, though the step fails.
            for key, entries in metadata.items():
                event = dg.AssetMaterialization(context.asset_key, partition=key, metadata=entries)
                context.log_event(event)
            reasons = [f"{key}: {reason}" for key, reason in scored.failures.items()]
            raise ScoringError("\n".join(reasons))
        for key, entries in metadata.items():
            context.add_asset_metadata(entries, partition_key=key)
        checked = {key: lineage.store.scores(key) for key in scored.records}
        return dg.MaterializeResult(check_results=[every_token_scored(scored.records, checked)])

    @dg.asset(
        group_name="evaluation",
        output_required=False,
        partitions_def=partitions.model,
        deps=[token_scores],
        owners=OWNERS,
        kinds={"json"},
        code_version=CODE_VERSIONS["perplexity_report"],
        backfill_policy=dg.BackfillPolicy.single_run(),
        metadata=columns.below(columns.PERPLEXITY_REPORT),
        check_specs=[
            dg.AssetCheckSpec(
                "figures_are_consistent",
                asset="perplexity_report",
                blocking=True,
                description="Every figure lies in its own interval; no perplexity is below 1.",
            ),
            dg.AssetCheckSpec(
                "no_worse_than_before",
                asset="perplexity_report",
                description="Warns where a model became worse since its last report, by more than "
                "the paired 95 % interval.",
            ),
        ],
    )
    @leaving_out_absent
    def perplexity_report(
        context: dg.AssetExecutionContext, workspace: Workspace
    ) -> dg.MaterializeResult:
        """One model's table: perplexity and bits per byte on every dataset and split.

        Intervals are 95 % intervals of a document bootstrap.
        """
        lineage = workspace.lineage(experiment)
        keys = context.partition_keys
        states = _states(lineage, keys)
        records, changes = {}, {}
        for key in keys:
            if key in states:
                context.add_asset_metadata(states[key], partition_key=key)
                continue
            changes[key] = steps.changes_since_last_report(lineage, key)
            records[key] = steps.report(lineage, key)
            shown = _report_metadata(records[key])
            metadata = page(shown, records[key], lineage.store.report(key))
            context.add_asset_metadata(metadata, partition_key=key)
        return dg.MaterializeResult(
            check_results=[figures_are_consistent(records), no_worse_than_before(changes)]
        )

    @dg.asset(
        group_name="evaluation",
        deps=[dg.AssetDep(perplexity_report, partition_mapping=dg.AllPartitionMapping())],
        owners=OWNERS,
        kinds={"parquet", "markdown"},
        code_version=CODE_VERSIONS["perplexity_matrix"],
        metadata=columns.below(columns.PERPLEXITY_MATRIX),
        check_specs=[
            dg.AssetCheckSpec(
                "matrix_is_complete",
                asset="perplexity_matrix",
                description="There is a figure for every model on every dataset and split.",
            )
        ],
    )
    def perplexity_matrix(workspace: Workspace, tracking: Tracking) -> dg.MaterializeResult:
        """Every model on every domain and split: what was worth its training.

        Heatmap, Markdown and Parquet, with averages over domains and paired differences to the
        seed model; the table goes to Weights & Biases too, where the experiment names a project.
        """
        from mdel_assets.evaluation.tracked_matrix import track_matrix

        lineage = workspace.lineage(experiment)
        record, matrix = steps.make_matrix(lineage)
        tracker = tracking.tracker(experiment)
        address = track_matrix(tracker, matrix, fingerprint=record.fingerprint)
        missing = record.details["missing"]
        complete = dg.AssetCheckResult(
            passed=not missing,
            check_name="matrix_is_complete",
            description=f"{len(missing)} cells have no figure: materialize token_scores and "
            f"perplexity_report of these models, or `mdel run`."
            if missing
            else f"Every model has a figure on each of {len(matrix.datasets)} datasets and "
            f"{len(matrix.splits)} splits.",
            metadata={"missing_cells": dg.MetadataValue.json(missing)},
        )
        return dg.MaterializeResult(
            metadata=page(
                {
                    **_matrix_metadata(matrix),
                    "what_is_stale": _stale_table(lineage),
                    **link("wandb", address),
                },
                record,
                lineage.store.matrix(),
            ),
            check_results=[complete],
        )

    return [token_scores, perplexity_report, perplexity_matrix]


def _states(lineage: Lineage, keys: Sequence[str]) -> dict[str, dict[str, str]]:
    """Return what is shown of models that have no figures, for they were never made.

    A model that is asked for alone is expected to be there.
    """
    states: dict[str, dict[str, str]] = {}
    for key in keys if len(keys) > 1 else []:
        model = lineage.store.model(key)
        if not model.record_path.exists():
            states[key] = {"state": f"{model.label} was never made: nothing to score"}
            _log.warning("%s was never made: left out", model.label)
    return states


def _scores_metadata(record: Record, artifact: Artifact) -> dict[str, Any]:
    counts = record.counts
    return page({columns.ROW_COUNT: counts["num_documents"], **counts}, record, artifact)


def _report_metadata(record: Record) -> dict[str, Any]:
    from mdel_assets.charts import bar_chart

    rows = record.details["rows"]
    shown = [
        {
            "dataset": row["dataset"],
            "split": row["split"],
            "bits_per_byte": rounded(row["bits_per_byte"]),
            "low": rounded(row["bits_per_byte_low"]),
            "high": rounded(row["bits_per_byte_high"]),
            "perplexity": rounded(row["perplexity"]),
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
    return {
        "bits_per_byte": chart(drawn, "bits per byte"),
        "perplexity": table(shown),
        columns.ROW_COUNT: len(rows),
    }


def _stale_table(lineage: Lineage) -> dg.MetadataValue:
    """Return what the matrix is made of, or beside, that a run would make anew, and why."""
    rows = [
        {"asset": stale.kind, "partition": stale.key, "reason": stale.reason}
        for stale in what_is_stale(lineage, until="perplexity_matrix").found
    ]
    return table(rows) if rows else dg.MetadataValue.text("Nothing: all is up to date.")


def _matrix_metadata(matrix: Any) -> dict[str, Any]:
    from mdel_assets.evaluation.changes import inline_changes_figure
    from mdel_assets.evaluation.findings import findings
    from mdel_assets.evaluation.heatmap import inline_heatmap_figure
    from mdel_assets.evaluation.matrix_markdown import matrix_markdown

    return {
        "findings": dg.MetadataValue.md("\n".join(f"- {line}" for line in findings(matrix))),
        "heatmap": chart(inline_heatmap_figure(matrix), "perplexity matrix"),
        "changes": chart(inline_changes_figure(matrix), "change from the seed"),
        "tables": dg.MetadataValue.md(matrix_markdown(matrix)),
        columns.ROW_COUNT: len(matrix.rows),
        "num_models": len(matrix.models),
        "num_datasets": len(matrix.datasets),
    }
