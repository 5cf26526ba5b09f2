"""The assets of a sweep: experts with other settings, and the report that compares them."""

import dagster as dg

from mdel_assets.defs import columns
from mdel_assets.defs.compute import Compute
from mdel_assets.defs.line_assets import LineAssets
from mdel_assets.defs.metadata import chart, result_of, table
from mdel_assets.defs.resources import Workspace
from mdel_assets.defs.training import trained_asset
from mdel_assets.evaluation.sweep_step import read_sweep
from mdel_assets.line.making import make_one


def variant_assets(line: LineAssets, compute: Compute) -> list[dg.AssetsDefinition]:
    """Return `variant_expert` and `sweep_report`; none where the experiment has no variants."""
    experiment = line.experiment
    if not line.has("variant_expert"):
        return []
    variant_expert = trained_asset(
        line,
        "variant_expert",
        backfill_policy=compute.backfill_policy("variant_expert"),
        description="""
        An expert trained with other settings, as defined under `variants` in the experiment.

        It may train other layers, use another learning rate, or read only the domain's documents.
        """,
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
        return result_of(record, lineage.artifact("sweep_report"), shown)

    return [variant_expert, sweep_report]
