"""The assets of a sweep: experts with other settings, and the report that compares them."""

import functools

import dagster as dg

from mdel_assets.defs import columns
from mdel_assets.defs.compute import Compute
from mdel_assets.defs.line_assets import LineAssets
from mdel_assets.defs.metadata import chart, page, table
from mdel_assets.defs.resources import Tracking, Workspace
from mdel_assets.defs.training import FROZEN_CHECK, FROZEN_UNCHANGED, trained_partitions
from mdel_assets.evaluation.sweep_step import read_sweep
from mdel_assets.line.making import make_one


def variant_assets(line: LineAssets, compute: Compute) -> list[dg.AssetsDefinition]:
    """Return `variant_expert` and `sweep_report`; none where the experiment has no variants."""
    experiment = line.experiment
    if not line.has("variant_expert"):
        return []

    @line.asset(
        "variant_expert",
        group="training",
        icons={"pytorch", "huggingface"},
        blocking_checks={FROZEN_CHECK: FROZEN_UNCHANGED},
        backfill_policy=compute.backfill_policy,
        pool="gpu",
    )
    def variant_expert(
        context: dg.AssetExecutionContext,
        workspace: Workspace,
        compute: Compute,
        tracking: Tracking,
    ) -> dg.MaterializeResult:
        """An expert trained with other settings, as defined under `variants` in the experiment.

        It may train other layers, use another learning rate, or read only the domain's documents.
        """
        lineage = workspace.lineage(experiment)
        made = compute.make_all(
            context,
            experiment,
            context.partition_keys,
            workspace=workspace,
            tracking=tracking,
        )
        return trained_partitions(
            context, made, artifact_of=functools.partial(lineage.artifact, "variant_expert")
        )

    @line.asset(
        "sweep_report",
        group="evaluation",
        icons={"parquet", "matplotlib"},
        metadata=columns.below(columns.SWEEP_REPORT),
    )
    def sweep_report(workspace: Workspace) -> dg.MaterializeResult:
        """What each variant gains on its domain and on general text, compared with the expert.

        Figures are changes from the seed in bits per byte, with paired 95 % intervals.
        """
        from mdel_assets.evaluation.sweep import draw_sweep, sweep_markdown, sweep_rows

        lineage = workspace.lineage(experiment)
        record = make_one(lineage, "sweep_report")
        entries = read_sweep(lineage)
        rows = sweep_rows(entries)
        shown = {
            "changes": dg.MetadataValue.md(sweep_markdown(entries)),
            "sweep": chart(draw_sweep(entries), "what each variant gains"),
            "rows": table(rows),
            columns.ROW_COUNT: len(rows),
        }
        return dg.MaterializeResult(metadata=page(shown, record, lineage.artifact("sweep_report")))

    return [variant_expert, sweep_report]
