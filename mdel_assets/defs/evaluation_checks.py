"""Checks of scores and reports: each can fail, and says what it looked at."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import dagster as dg

from mdel_assets.artifacts import Artifact, Record
from mdel_assets.defs.metadata import rounded, table

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

    from mdel_assets.evaluation.token_scores import DOCUMENTS_NAME

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
    return dg.AssetCheckResult(
        passed=all(
            row["tokens"] == row["log_probabilities"] and row["highest"] <= _HIGHEST_LOG_PROBABILITY
            for row in rows
        ),
        check_name="every_token_scored",
        metadata={"models": table(rows)},
    )


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
    return dg.AssetCheckResult(
        passed=not worse,
        check_name="no_worse_than_before",
        severity=dg.AssetCheckSeverity.WARN,
        description=f"Worse than at the last report, in bits per byte: {', '.join(worse)}"
        if worse
        else None,
        metadata={"changes_since_the_last_report": table(rows)} if rows else {},
    )
