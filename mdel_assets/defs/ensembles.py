"""Ensemble assets: the router, and the report on ensembles of experts."""

from typing import Any

import dagster as dg

from mdel_assets.defs import columns
from mdel_assets.defs.line_assets import LineAssets
from mdel_assets.defs.metadata import change_entries, chart, result_of, table
from mdel_assets.defs.resources import Workspace
from mdel_assets.evaluation.ensemble_record import EnsembleRecord
from mdel_assets.evaluation.ensemble_steps import read_ensembles, shown_merges
from mdel_assets.experiment.model_keys import POSTERIOR, Family
from mdel_assets.line.lineage import Lineage
from mdel_assets.line.making import make_one, make_shown
from mdel_assets.store.records import Record

_NOTHING = {"state": "absent: an ensemble needs two domains with training documents"}


def ensemble_assets(line: LineAssets) -> list[dg.AssetsDefinition]:
    """Return the assets of the group ``evaluation`` that put experts together."""
    experiment = line.experiment

    @line.asset("domain_router", group="evaluation", icons={"scikitlearn", "safetensors"})
    def domain_router(workspace: Workspace) -> dg.MaterializeResult:
        """Predicts a text's domain from its beginning; ensembles weight their experts by it.

        There are two routers: `tfidf` measures the distance to each domain's centroid (c-BTM),
        `linear` is a logistic regression. Both use hashed words and word pairs of training
        documents.
        """
        lineage = workspace.lineage(experiment)
        if not lineage.keys("domain_router"):
            return dg.MaterializeResult(metadata=_NOTHING)
        record = make_one(lineage, "domain_router")
        return result_of(record, lineage.artifact("domain_router"), _router_metadata(record))

    @line.asset(
        "ensemble_report",
        group="evaluation",
        icons={"parquet", "markdown"},
        metadata=columns.below(
            columns.of_trainings(columns.ENSEMBLE_REPORT, replicates=experiment.replicates)
        ),
        checks={
            "posterior_beats_every_single_model": "Warns unless the posterior ensemble of all "
            "experts is better than the best single model, by its paired 95 % interval."
        },
    )
    def ensemble_report(workspace: Workspace) -> dg.MaterializeResult:
        """Ensembles of experts, compared with every single model. No model is run.

        Experts are weighted token by token: uniformly, by a Bayesian posterior over the preceding
        tokens (Branch-Train-Merge), or by a router (c-BTM); with all experts, or only the one or
        two with the largest weights.
        """
        lineage = workspace.lineage(experiment)
        if not lineage.keys("ensemble_report"):
            check = dg.AssetCheckResult(
                passed=True,
                check_name="posterior_beats_every_single_model",
                description="absent: nothing to check",
            )
            return dg.MaterializeResult(metadata=_NOTHING, check_results=[check])
        record, matrix = make_shown(lineage, "ensemble_report", read_ensembles)
        metadata, check = _report_metadata(lineage, record, matrix)
        return result_of(record, lineage.artifact("ensemble_report"), metadata, check)

    return [domain_router, ensemble_report]


def _router_metadata(record: Record) -> dict[str, Any]:
    from mdel_assets.evaluation.router import Confusion, confusion_figure

    confusions = [Confusion(**content) for content in record.details["confusions"]]
    rows = [
        {"router": c.router, "characters read": c.num_characters, "right": round(c.accuracy, 4)}
        for c in confusions
    ]
    drawn = confusion_figure(confusions, record.details["domains"])
    return {"accuracy": table(rows), "confusion": chart(drawn, "predicted against true domains")}


def _report_metadata(
    lineage: Lineage, record: Record, matrix: Any
) -> tuple[dict[str, Any], dg.AssetCheckResult]:
    from mdel_assets.evaluation.ensemble_report import (
        ensemble_figure,
        ensemble_findings,
        ensemble_markdown,
        standings,
    )
    from mdel_assets.evaluation.glance import glance_of

    num_experts = EnsembleRecord.of(record).num_experts
    ranked = standings(matrix, matrix.splits[0], num_experts=num_experts)
    change = next(s.change for s in ranked if s.name == POSTERIOR)
    drawn = ensemble_figure(matrix, num_experts=num_experts)
    at_a_glance = glance_of(matrix, num_experts=num_experts, merged=shown_merges(lineage))
    metadata = {
        "findings": dg.MetadataValue.md("\n".join(f"- {f}" for f in ensemble_findings(ranked))),
        "at_a_glance": chart(at_a_glance, "gains at a glance"),
        "chart": chart(drawn, "ensembles and single models"),
        "tables": dg.MetadataValue.md(ensemble_markdown(matrix, num_experts=num_experts)),
        "num_experts": num_experts,
        columns.ROW_COUNT: len(matrix.rows),
    }
    check = dg.AssetCheckResult(
        passed=change.is_better,
        check_name="posterior_beats_every_single_model",
        severity=dg.AssetCheckSeverity.WARN,
        description=_what_the_posterior_is_worth(ranked),
        metadata=change_entries(change),
    )
    return metadata, check


def _what_the_posterior_is_worth(ranked: Any) -> str:
    """Compare the ensemble of all experts with the best single model, and give advice."""
    from mdel_assets.evaluation.findings import verdict

    posterior = next(s for s in ranked if s.name == POSTERIOR)
    single = next(s.name for s in ranked if not Family.ENSEMBLE.has(s.name))
    found = verdict(posterior.change, than=f"{single}, the best single model")
    if not posterior.change.is_enough:
        advice = "Hold out more text: set a larger source.holdout_fraction or validation files."
    elif posterior.change.is_better:
        advice = "`tables` shows what each ensemble costs to serve."
    else:
        advice = f"Serve {single}: running all experts is not worth the cost here."
    return f"All experts, weighted by how well they predict: {found}. {advice}"
