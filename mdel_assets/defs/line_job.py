"""The job of the whole pipeline: it does what `mdel run` does, started from the web UI.

Dagster allows no job over assets with different partitions, and a backfill of everything would also
remake what is up to date. So the job has one step, which starts a separate run for each artifact,
as `mdel run` does.
"""

from collections.abc import Iterator

import dagster as dg

from mdel_assets.defs.failures import in_words
from mdel_assets.defs.launch import run_line
from mdel_assets.defs.resources import Workspace
from mdel_assets.errors import LineError
from mdel_assets.experiment.experiment import Experiment
from mdel_assets.home import MdelHome
from mdel_assets.line.lineage import Lineage
from mdel_assets.maintenance.experiment_checks import refuse_mistakes
from mdel_assets.planning.kept import kept_plan
from mdel_assets.planning.table import plan_markdown

LINE_JOB = "bring_line_up_to_date"


def line_job(experiment: Experiment, home: MdelHome) -> dg.JobDefinition:
    """Return the job that makes everything of ``experiment`` that is missing or stale.

    Its page shows the last plan, which says what a run takes.
    """
    lineage = home.lineage(experiment)

    @dg.op
    @in_words
    def make_what_is_stale(context: dg.OpExecutionContext, workspace: Workspace) -> None:
        """Makes everything that is missing or stale, in order, each artifact in its own run."""
        failed = list(_run_line(context, experiment, workspace))
        if failed:
            raise LineError(f"{len(failed)} not made. The first: {failed[0]}")

    @dg.job(
        name=LINE_JOB,
        description="Makes everything that is missing or stale, from the shards to the perplexity "
        "matrix, as `mdel run` does. It publishes nothing.",
        metadata=_plan_metadata(lineage),
    )
    def job() -> None:
        make_what_is_stale()

    return job


def _plan_metadata(lineage: Lineage) -> dict[str, dg.MetadataValue]:
    """Return the kept plan as the job's page shows it, or how to make one."""
    kept = kept_plan(lineage)
    if kept is None:
        told = "None yet for this experiment: `mdel plan` says what a run takes."
        return {"plan": dg.MetadataValue.md(told)}
    return {
        "plan": dg.MetadataValue.md(plan_markdown(kept.plan)),
        "planned_at": dg.MetadataValue.text(kept.made_at),
    }


def _run_line(
    context: dg.OpExecutionContext, experiment: Experiment, workspace: Workspace
) -> Iterator[str]:
    """Run the line; yield what was not made, and why."""
    refuse_mistakes(workspace.home.lineage(experiment))
    for outcome in run_line(experiment, workspace.home, instance=context.instance):
        what = f"{outcome.kind} {outcome.key}".strip()
        context.log.info("%s: %s", outcome.state, what)
        if outcome.state in ("failed", "skipped"):
            yield f"{what}: {outcome.message}" if outcome.message else what
