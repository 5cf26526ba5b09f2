"""Schedules, off by default: experts every night, a report every week."""

import dagster as dg
from dagster._core.definitions.unresolved_asset_job_definition import (
    UnresolvedAssetJobDefinition,
)

from mdel_assets.defs.partitions import Partitions, range_tags
from mdel_assets.line.lineage import Lineage
from mdel_assets.line.what_is_stale import report_kinds, stale_experts, stale_reports


def expert_job() -> UnresolvedAssetJobDefinition:
    """Return the job that brings one domain's dataset and expert up to date."""
    return dg.define_asset_job(
        "bring_expert_up_to_date",
        selection=dg.AssetSelection.assets("domain_dataset", "expert_model"),
        description="Makes one domain's dataset and expert, unless they are up to date.",
    )


def nightly_experts(lineage: Lineage, job: UnresolvedAssetJobDefinition) -> dg.ScheduleDefinition:
    """Return the schedule, off by default, that requests experts with a changed fingerprint."""

    @dg.schedule(
        name="nightly_experts",
        job=job,
        cron_schedule="0 1 * * *",
        description="Requests one run for each domain whose dataset, seed model, settings or code "
        "has changed since its expert was trained. It requests each day's runs once.",
    )
    def schedule(context: dg.ScheduleEvaluationContext) -> list[dg.RunRequest] | dg.SkipReason:
        reasons = stale_experts(lineage)
        if not reasons:
            return dg.SkipReason(_nothing_for_experts(lineage))
        day = context.scheduled_execution_time.date().isoformat()
        return [
            dg.RunRequest(
                run_key=f"expert_model-{domain}-{day}",
                partition_key=domain,
                tags={"mdel/reason": reason[:250]},
            )
            for domain, reason in reasons.items()
        ]

    return schedule


def report_job(lineage: Lineage) -> UnresolvedAssetJobDefinition:
    """Return the job that scores models and puts them into the matrix."""
    reports = [kind for kind in lineage.kinds() if lineage.registry[kind].is_report]
    return dg.define_asset_job(
        "bring_reports_up_to_date",
        selection=dg.AssetSelection.assets(*reports),
        description="Scores, reports, the matrix and the ensembles, of all models that are there.",
    )


def weekly_report(
    lineage: Lineage, job: UnresolvedAssetJobDefinition, partitions: Partitions
) -> dg.ScheduleDefinition:
    """Return the schedule, off by default, that requests all reports if a figure could change."""

    @dg.schedule(
        name="weekly_report",
        job=job,
        cron_schedule="0 6 * * 1",
        description="Requests one run that scores what has changed and remakes the reports, the "
        "matrix and the ensembles. It leaves out models that were never made, and ensembles with "
        "such a model.",
    )
    def schedule(context: dg.ScheduleEvaluationContext) -> dg.RunRequest | dg.SkipReason:
        stale = stale_reports(lineage)
        if not stale:
            return dg.SkipReason("Every report is up to date, or no model exists yet.")
        reason = f"{lineage.artifact(stale[0].kind, stale[0].key).label}: {stale[0].reason}"
        day = context.scheduled_execution_time.date().isoformat()
        return dg.RunRequest(
            run_key=f"weekly_report-{day}",
            asset_selection=[dg.AssetKey(kind) for kind in report_kinds(lineage)],
            tags={**range_tags(partitions.keys("token_scores")), "mdel/reason": reason[:250]},
        )

    return schedule


def _nothing_for_experts(lineage: Lineage) -> str:
    made = [key for key in lineage.experiment.domain_keys if _has_dataset(lineage, key)]
    if not made:
        return "No domain has a dataset yet: materialize domain_dataset first."
    return f"The experts of all {len(made)} domains with a dataset are up to date."


def _has_dataset(lineage: Lineage, domain: str) -> bool:
    return lineage.artifact("domain_dataset", domain).is_made()
