"""Evaluation assets: token scores, perplexity reports, the matrix."""

import contextlib
import logging
from collections.abc import Callable, Sequence
from typing import Any

import dagster as dg

from mdel_assets.defs import columns
from mdel_assets.defs.compute import Compute, raise_where_cancelled
from mdel_assets.defs.evaluation_checks import (
    every_token_scored,
    figures_are_consistent,
    no_worse_than_before,
)
from mdel_assets.defs.line_assets import AllInOneRun, LineAssets
from mdel_assets.defs.metadata import chart, link, note_partitions, page, result_of, rounded, table
from mdel_assets.defs.resources import Tracking, Workspace
from mdel_assets.errors import MdelError, TrainingInterruptedError
from mdel_assets.evaluation import steps
from mdel_assets.experiment.model_keys import POSTERIOR, Family
from mdel_assets.line.lineage import Lineage
from mdel_assets.line.making import make, make_shown
from mdel_assets.line.what_is_stale import what_is_stale
from mdel_assets.scoring.report_rows import rows_of
from mdel_assets.store.artifacts import Artifact
from mdel_assets.store.records import Record

_log = logging.getLogger(__name__)


def evaluation_assets(line: LineAssets) -> list[dg.AssetsDefinition]:
    """Return the assets of the group ``evaluation``."""
    experiment = line.experiment

    @line.asset(
        "token_scores",
        group="evaluation",
        icons={"pytorch", "parquet"},
        metadata=columns.below(columns.TOKEN_SCORES),
        blocking_checks={
            "every_token_scored": "One log-probability for each token that was counted, none above "
            "0."
        },
        backfill_policy=AllInOneRun(),
        pool="gpu",
    )
    def token_scores(
        context: dg.AssetExecutionContext, workspace: Workspace, compute: Compute
    ) -> dg.MaterializeResult:
        """Log-probability of every token of every evaluation document under one model.

        Every token is scored exactly once, in rolling windows of `evaluation.max_length`. The
        models of a run are scored together: shared layers run once, a document of several datasets
        is scored once, and documents that were scored before are not scored again.
        """
        lineage = workspace.lineage(experiment)
        keys = context.partition_keys
        states = states_of_unmade(lineage, keys)
        unscored = [key for key in keys if key not in states]
        try:
            scored = compute.made(context, lineage, unscored, here=steps.score_side_by_side)
        except TrainingInterruptedError as error:
            raise_where_cancelled(error)
            raise
        metadata = {
            key: states[key]
            if key in states
            else _scores_metadata(scored.records[key], lineage.artifact("token_scores", key))
            for key in keys
            if key not in scored.failures
        }
        note_partitions(context, metadata, fails=bool(scored.failures))
        scored.raise_failures()
        checked = {key: lineage.artifact("token_scores", key) for key in scored.records}
        return dg.MaterializeResult(check_results=[every_token_scored(scored.records, checked)])

    @line.asset(
        "perplexity_report",
        group="evaluation",
        icons={"json"},
        metadata=columns.below(columns.PERPLEXITY_REPORT),
        checks={
            "figures_are_consistent": "Warns where a figure lies outside its own interval, or a "
            "perplexity is below 1.",
            "no_worse_than_before": "Warns where a model became worse since its last report, by "
            "more than the paired 95 % interval.",
        },
        backfill_policy=AllInOneRun(),
    )
    def perplexity_report(
        context: dg.AssetExecutionContext, workspace: Workspace
    ) -> dg.MaterializeResult:
        """One model's table: perplexity and bits per byte on every dataset and split.

        Intervals are 95 % intervals of a document bootstrap.
        """
        lineage = workspace.lineage(experiment)
        states = states_of_unmade(lineage, context.partition_keys)
        keys = [key for key in context.partition_keys if key not in states]
        changes = {}
        for key in keys:
            # Scores that cannot be read are a failure of making the report, too.
            with contextlib.suppress(MdelError):
                changes[key] = steps.changes_since_last_report(lineage, key)
        made = make(lineage, "perplexity_report", keys)
        pages = {
            key: page(_report_metadata(record), record, lineage.artifact("perplexity_report", key))
            for key, record in made.records.items()
        }
        note_partitions(context, states | pages, fails=bool(made.failures))
        made.raise_failures()
        return dg.MaterializeResult(
            check_results=[figures_are_consistent(made.records), no_worse_than_before(changes)]
        )

    @line.asset(
        "perplexity_matrix",
        group="evaluation",
        icons={"parquet", "markdown"},
        metadata=columns.below(
            columns.of_trainings(columns.PERPLEXITY_MATRIX, replicates=experiment.replicates)
        ),
        checks={
            "matrix_is_complete": "There is a figure for every model on every dataset and split."
        },
    )
    def perplexity_matrix(workspace: Workspace, tracking: Tracking) -> dg.MaterializeResult:
        """The perplexity of every model on every domain and split.

        A heatmap, a Markdown and a Parquet table, with averages over domains and paired differences
        from the seed model. If the experiment names a project, the table is also sent to Weights &
        Biases.
        """
        from mdel_assets.evaluation.tracked_matrix import track_matrix

        lineage = workspace.lineage(experiment)
        record, matrix = make_shown(lineage, "perplexity_matrix", steps.read_matrix)
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
        return result_of(
            record,
            lineage.artifact("perplexity_matrix"),
            {
                **_matrix_metadata(matrix),
                "what_is_stale": _stale_table(lineage),
                **link("wandb", address),
            },
            complete,
        )

    return [token_scores, perplexity_report, perplexity_matrix]


def states_of_unmade(lineage: Lineage, keys: Sequence[str]) -> dict[str, dict[str, str]]:
    """Return the metadata of models that have no figures because they were never made.

    A model that is requested alone is expected to exist.
    """
    states: dict[str, dict[str, str]] = {}
    for key in keys if len(keys) > 1 else []:
        names = Family.EXPERT.keys(lineage.present_domains()) if key == POSTERIOR else [key]
        for model in map(lineage.model, names):
            if not model.is_made():
                states[key] = {"state": f"{model.label} was never made: nothing to score"}
                _log.warning("%s was never made: %s is left out", model.label, key)
    return states


def made_with_pages(
    context: dg.AssetExecutionContext,
    lineage: Lineage,
    compute: Compute,
    page_of: Callable[[Lineage, Record], dict[str, Any]],
) -> dg.MaterializeResult:
    """Make what is measured of the requested models; a model that was never made is left out."""
    states = states_of_unmade(lineage, context.partition_keys)
    keys = [key for key in context.partition_keys if key not in states]
    made = compute.made(context, lineage, keys)
    pages = {key: page_of(lineage, record) for key, record in made.records.items()}
    note_partitions(context, states | pages, fails=bool(made.failures))
    made.raise_failures()
    return dg.MaterializeResult()


def _scores_metadata(record: Record, artifact: Artifact) -> dict[str, Any]:
    counts = record.counts | artifact.all_details(record)
    return page({columns.ROW_COUNT: counts["num_documents"], **counts}, record, artifact)


def _report_metadata(record: Record) -> dict[str, Any]:
    from mdel_assets.charts import bar_chart

    rows = rows_of(record)
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
        row["dataset"]: value
        for row in rows
        if row["split"] == split and (value := row["bits_per_byte"]) is not None
    }
    drawn = bar_chart(bits, x_label="bits per byte (lower is better)", title=split)
    return {
        "bits_per_byte": chart(drawn, "bits per byte"),
        "perplexity": table(shown),
        columns.ROW_COUNT: len(rows),
    }


def _stale_table(lineage: Lineage) -> dg.MetadataValue:
    """Return a table of the matrix's stale inputs and stale sibling reports, with reasons."""
    rows = [
        {"asset": stale.kind, "partition": stale.key, "reason": stale.reason}
        for stale in what_is_stale(lineage, until="perplexity_matrix").found
    ]
    return table(rows) if rows else dg.MetadataValue.text("Nothing: everything is up to date.")


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
