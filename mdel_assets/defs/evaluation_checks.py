"""Checks of scores and reports; each names what it compared."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import dagster as dg

from mdel_assets.defs.metadata import barring, change_entries, table
from mdel_assets.scoring.estimates import TOO_FEW
from mdel_assets.scoring.report_rows import ReportRow, rows_of
from mdel_assets.store.artifacts import Artifact
from mdel_assets.store.records import Record

if TYPE_CHECKING:
    from mdel_assets.evaluation.regression import Change

# Rounding can make a probability slightly more than 1.
_HIGHEST_LOG_PROBABILITY = 1e-5


def every_token_scored(
    records: Mapping[str, Record], artifacts: Mapping[str, Artifact]
) -> dg.AssetCheckResult:
    """Compare counted tokens with stored log-probabilities, and look for positive ones."""
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    from mdel_assets.scoring.token_scores import DOCUMENTS_NAME

    rows = []
    for key, record in records.items():
        stored = pq.read_table(artifacts[key].folder / DOCUMENTS_NAME)
        values = pc.list_flatten(stored.column("log_probabilities"))
        rows.append(
            {
                "model": key,
                "tokens": record.counts["num_tokens"],
                "log_probabilities": len(values),
                "highest": float(pc.max(values).as_py()) if len(values) else 0.0,
            }
        )
    wrong = [
        str(row["model"])
        for row in rows
        if row["tokens"] != row["log_probabilities"] or row["highest"] > _HIGHEST_LOG_PROBABILITY
    ]
    check = dg.AssetCheckResult(
        passed=not wrong,
        check_name="every_token_scored",
        description=f"Tokens have no log-probability, or one above 0: {', '.join(wrong)}. "
        f"Materialize token_scores of these models again."
        if wrong
        else f"All {sum(row['tokens'] for row in rows):,} tokens have a log-probability.",
        metadata={"models": table(rows)},
    )
    return barring(check, [artifacts[key] for key in wrong])


def figures_are_consistent(records: Mapping[str, Record]) -> dg.AssetCheckResult:
    """Look for figures outside their intervals and for perplexities below 1."""
    wrong = [
        f"{model}: {row['dataset']}/{row['split']}"
        for model, record in records.items()
        for row in rows_of(record)
        if not _is_consistent(row)
    ]
    return dg.AssetCheckResult(
        passed=not wrong,
        check_name="figures_are_consistent",
        severity=dg.AssetCheckSeverity.WARN,
        description=f"Figures outside their interval, or perplexities below 1: {', '.join(wrong)}. "
        f"Materialize perplexity_report of these models again."
        if wrong
        else "Every figure is in its interval, and no perplexity is below 1.",
        metadata={"doubtful": dg.MetadataValue.json(wrong)},
    )


def _is_consistent(row: ReportRow) -> bool:
    low, bits, high = row["bits_per_byte_low"], row["bits_per_byte"], row["bits_per_byte_high"]
    if low is None or bits is None or high is None:
        return True
    return low <= bits <= high and (row["perplexity"] or 0.0) >= 1.0


def no_worse_than_before(changes: "Mapping[str, Sequence[Change]]") -> dg.AssetCheckResult:
    """Warn of cells that became worse since the last report by more than their paired interval."""
    rows = [
        {
            "model": model,
            "dataset": change.dataset,
            "split": change.split,
            "num_documents": change.num_documents,
            **change_entries(change),
        }
        for model, of_model in changes.items()
        for change in of_model
    ]
    worse = [
        f"{model} on {c.dataset}/{c.split} ({c.value:+.4f})"
        for model, of_model in changes.items()
        for c in of_model
        if c.is_worse
    ]
    few = sum(not change.is_enough for of_model in changes.values() for change in of_model)
    untold = f" In {few} of {len(rows)} cells there are {TOO_FEW} to judge." if few else ""
    return dg.AssetCheckResult(
        passed=not worse,
        check_name="no_worse_than_before",
        severity=dg.AssetCheckSeverity.WARN,
        description=f"Worse than in the last report, in bits per byte: {', '.join(worse)}. If this "
        f"is unexpected, see in the model's record what has changed.{untold}"
        if worse
        else f"No model is clearly worse than in its last report.{untold}"
        if rows
        else "There is no earlier report of the same documents to compare with.",
        metadata={"changes_since_the_last_report": table(rows)} if rows else {},
    )
