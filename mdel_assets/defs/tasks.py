"""The assets that judge models by tasks of lm-evaluation-harness."""

from typing import Any

import dagster as dg

from mdel_assets.defs.compute import Compute
from mdel_assets.defs.evaluation import made_with_pages
from mdel_assets.defs.line_assets import AllInOneRun, LineAssets
from mdel_assets.defs.metadata import chart, page, result_of, rounded, table
from mdel_assets.defs.resources import Workspace
from mdel_assets.line.lineage import Lineage
from mdel_assets.line.making import make_shown
from mdel_assets.store.records import Record


def task_assets(line: LineAssets) -> list[dg.AssetsDefinition]:
    """Return the two assets; none where the experiment names no tasks."""
    if not line.has("task_report"):
        return []
    experiment = line.experiment

    @line.asset(
        "task_report",
        group="evaluation",
        icons={"pytorch", "json"},
        backfill_policy=AllInOneRun(),
        pool="gpu",
    )
    def task_report(
        context: dg.AssetExecutionContext, workspace: Workspace, compute: Compute
    ) -> dg.MaterializeResult:
        """What a model scores on tasks of lm-evaluation-harness, with standard errors.

        The harness's own evaluator runs them. A model is loaded once for all its tasks, and a task
        that was run on it before is not run again.
        """
        return made_with_pages(context, workspace.lineage(experiment), compute, _page)

    @line.asset("task_matrix", group="evaluation", icons={"json", "markdown"})
    def task_matrix(workspace: Workspace) -> dg.MaterializeResult:
        """Every model on every task, beside its bits per byte, and how the two go together.

        A table with standard errors, a chart, and the correlation of each task's figures with bits
        per byte. No model is run.
        """
        from mdel_assets.tasks.chart import comparison_figure
        from mdel_assets.tasks.comparison import findings
        from mdel_assets.tasks.comparison_text import comparison_markdown
        from mdel_assets.tasks.steps import read_comparison

        lineage = workspace.lineage(experiment)
        record, comparison = make_shown(lineage, "task_matrix", read_comparison)
        drawn = comparison_figure(comparison)
        told = "\n".join(f"- {line}" for line in findings(comparison))
        shown = {
            "findings": dg.MetadataValue.md(told),
            "chart": chart(drawn, "tasks and bits per byte"),
            "table": dg.MetadataValue.md(comparison_markdown(comparison)),
            **record.counts,
        }
        return result_of(record, lineage.artifact("task_matrix"), shown)

    return [task_report, task_matrix]


def _page(lineage: Lineage, record: Record) -> dict[str, Any]:
    from mdel_assets.tasks.results import read_results

    artifact = lineage.artifact("task_report", record.key)
    rows = [
        {
            "task": figure.task,
            "metric": figure.metric,
            "filter": figure.answers,
            "value": rounded(figure.value),
            "standard_error": rounded(figure.error),
            "num_items": figure.num_items,
        }
        for result in read_results(artifact.folder).values()
        for figure in result.figures
    ]
    return page({"figures": table(rows), **record.counts}, record, artifact)
