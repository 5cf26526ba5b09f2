"""Checks of scores and reports: each can fail, and says what it looked at."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import dagster as dg

from mdel_assets.defs.metadata import barring, rounded, table
from mdel_assets.scoring.estimates import TOO_FEW
from mdel_assets.store.artifacts import Artifact
from mdel_assets.store.records import Record

if TYPE_CHECKING:
    from mdel_assets.evaluation.regression import Change

# A probability of 1 may come out as a little more.
_HIGHEST_LOG_PROBABILITY = 1e-5


def every_token_scored(
    records: Mapping[str, Record], artifacts: Mapping[str, Artifact]
) -> dg.AssetCheckResult:
    """Compare tokens counted with log-probabilities stored, and look for a positive one."""
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
        description=f"Tokens without a log-probability of their own, or with one above 0: "
        f"{', '.join(wrong)}. Materialize token_scores of them again."
        if wrong
        else f"All {sum(row['tokens'] for row in rows):,} tokens have their log-probability.",
        metadata={"models": table(rows)},
    )
    return barring(check, [artifacts[key] for key in wrong])


def figures_are_consistent(records: Mapping[str, Record]) -> dg.AssetCheckResult:
    """Look for a figure outside its own interval, or a perplexity below 1."""
    wrong = [
        f"{model}: {row['dataset']}/{row['split']}"
        for model, record in records.items()
        for row in record.details["rows"]
        if row["num_bytes"]
        and not (
            row["bits_per_byte_low"] <= row["bits_per_byte"] <= row["bits_per_byte_high"]
            and row["perplexity"] >= 1.0
        )
    ]
    return dg.AssetCheckResult(
        passed=not wrong,
        check_name="figures_are_consistent",
        severity=dg.AssetCheckSeverity.WARN,
        description=f"Outside its own interval, or a perplexity below 1: {', '.join(wrong)}. "
        f"Materialize perplexity_report of these models again."
        if wrong
        else "Every figure lies in its own interval, and no perplexity is below 1.",
        metadata={"doubtful": dg.MetadataValue.json(wrong)},
    )


def no_worse_than_before(changes: "Mapping[str, Sequence[Change]]") -> dg.AssetCheckResult:
    """Warn of cells that became worse since the last report by more than their paired interval."""
    rows = [
        {
            "model": model,
            "dataset": change.dataset,
            "split": change.split,
            "num_documents": change.num_documents,
            "change": rounded(change.value),
            "low": rounded(change.low),
            "high": rounded(change.high),
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
    untold = f" In {few} of {len(rows)} cells there are {TOO_FEW} to tell." if few else ""
    return dg.AssetCheckResult(
        passed=not worse,
        check_name="no_worse_than_before",
        severity=dg.AssetCheckSeverity.WARN,
        description=f"Worse than at the last report, in bits per byte: {', '.join(worse)}. If that "
        f"was not meant, look at what the model's record says has changed.{untold}"
        if worse
        else f"No model is clearly worse than at its last report.{untold}"
        if rows
        else "There is no earlier report of the same documents to compare with.",
        metadata={"changes_since_the_last_report": table(rows)} if rows else {},
    )
