"""The asset that searches for a merge's weights; `merging.py` makes the model from them."""

from typing import Any

import dagster as dg

from mdel_assets.defs import columns
from mdel_assets.defs.compute import Compute
from mdel_assets.defs.line_assets import LineAssets
from mdel_assets.defs.metadata import (
    Described,
    barring,
    change_entries,
    chart,
    results_of,
    shortened,
    table,
)
from mdel_assets.defs.resources import Workspace
from mdel_assets.evaluation.findings import verdict
from mdel_assets.merging.members import recipe_parameters
from mdel_assets.merging.recipe_members import weighted_recipe
from mdel_assets.merging.search_step import REPORT_NAME
from mdel_assets.store.artifacts import Artifact
from mdel_assets.store.records import Record

_BEST, _TEST = "best_of_all_trials", "not_worse_than_the_mean_on_test"


def search_assets(line: LineAssets, compute: Compute) -> list[dg.AssetsDefinition]:
    """Return the asset of searched weights, where a recipe asks for a search."""
    experiment = line.experiment
    if not line.has("searched_merge"):
        return []

    @line.asset(
        "searched_merge",
        group="merging",
        icons={"pytorch", "json"},
        metadata=columns.below(columns.SEARCH_TRIALS),
        blocking_checks={_BEST: "No trial in the log has fewer bits per byte than the answer."},
        checks={
            _TEST: "Warns where the answer is clearly worse than the uniform mean on test text "
            "like that of the search."
        },
        pool="gpu",
        backfill_policy=compute.backfill_policy("searched_merge"),
    )
    def searched_merge(
        context: dg.AssetExecutionContext, workspace: Workspace, compute: Compute
    ) -> dg.MaterializeResult:
        """The weights with which a recipe's merge has the fewest bits per byte on validation text.

        Candidates are merged in memory and scored on a subsample of validation documents. The best
        one is judged on test documents, against the uniform mean and the seed. `merged_model` of
        the same key is the resulting model. A killed search resumes after its last trial.
        """
        lineage = workspace.lineage(experiment)

        def describe(record: Record, artifact: Artifact) -> Described:
            members = weighted_recipe(lineage, record.key)[1].models
            weights = [
                {"model": m.name, "weight": str(shortened(recipe_parameters(m)["weight"]))}
                for m in members
            ]
            shown = {**_search_metadata(record, artifact), "weights": table(weights)}
            return shown, [_best_of_all_trials(record, artifact), _not_worse_on_test(record)]

        made = compute.made(context, lineage, context.partition_keys)
        return results_of(context, made, describe, lineage=lineage)

    return [searched_merge]


def _search_metadata(record: Record, artifact: Artifact) -> dict[str, Any]:
    from mdel_assets.merging.search_report import trials_figure
    from mdel_assets.merging.trials import TRIALS_NAME, read_trials

    trials = read_trials(artifact.folder / TRIALS_NAME)
    drawn = trials_figure(trials, title=record.key)
    return {
        "report": dg.MetadataValue.md((artifact.folder / REPORT_NAME).read_text()),
        "trials": chart(drawn, "trials"),
        columns.ROW_COUNT: len(trials),
        "bits_per_byte": record.details["best"]["bits_per_byte"],
        **record.counts,
    }


def _best_of_all_trials(record: Record, artifact: Artifact) -> dg.AssetCheckResult:
    """Compare the answer with every trial in the log, including the starting points."""
    from mdel_assets.merging.trials import TRIALS_NAME, read_trials

    answer = record.details["best"]["bits_per_byte"]
    trials = read_trials(artifact.folder / TRIALS_NAME)
    better = [f"trial {t.number} ({t.origin})" for t in trials if t.bits_per_byte < answer]
    passed = bool(trials) and not better
    check = dg.AssetCheckResult(
        passed=passed,
        check_name=_BEST,
        description=f"Better than the answer: {', '.join(better)}. Materialize it again."
        if better
        else f"The answer is the best of {len(trials)} trials.",
        metadata={"better": dg.MetadataValue.json(better), "num_trials": len(trials)},
    )
    return barring(check, [] if passed else [artifact])


def _not_worse_on_test(record: Record) -> dg.AssetCheckResult:
    """Warn if the answer is clearly worse than the mean on test text of the searched kind.

    Figures on text of other domains are shown but not judged: the weights were not chosen for it.
    """
    from mdel_assets.merging.search_report import Verdict

    verdicts = [Verdict.of(content) for content in record.details["verdicts"]]
    rows = [
        {"split": v.split, "than": change.rival, **change_entries(change)}
        for v in verdicts
        for change in v.changes
    ]
    judged = [
        change
        for v in verdicts
        for change in v.changes
        if (v.split, change.rival) == ("test_domain", "uniform mean")
    ]
    is_worse = any(change.is_worse for change in judged)
    found = [verdict(change, than="the uniform mean") for change in judged]
    advice = " Take the uniform mean, or search on more documents." if is_worse else ""
    return dg.AssetCheckResult(
        passed=not is_worse,
        check_name=_TEST,
        severity=dg.AssetCheckSeverity.WARN,
        description=f"On test text of the domains: {'; '.join(found)}.{advice}"
        if found
        else "There is no test text to judge by.",
        metadata={"changes": table(rows)} if rows else {},
    )
