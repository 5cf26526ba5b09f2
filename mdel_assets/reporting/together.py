"""Ensembles as the page shows them, from the files of their report: no score is read again."""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import pyarrow.parquet as pq

from mdel_assets.evaluation.ensemble_record import EnsembleRecord
from mdel_assets.evaluation.ensemble_scores import num_experts_run
from mdel_assets.evaluation.ensemble_steps import shown_merges
from mdel_assets.evaluation.glance import labels_of
from mdel_assets.evaluation.matrix import Matrix
from mdel_assets.line.lineage import Lineage
from mdel_assets.reporting.bars import Bars, Measured, bars_of
from mdel_assets.scoring.estimates import Estimate

AVERAGES_NAME = "ensemble_averages.parquet"


@dataclasses.dataclass(frozen=True)
class TogetherRow:
    """A model or an ensemble on the average of domains; ``num_run`` models run per token."""

    model: str
    bits: float
    low: float
    high: float
    change: Estimate
    num_run: int


@dataclasses.dataclass(frozen=True)
class Together:
    """Uses of the same tokens at a glance, and all ensembles and single models, the best first."""

    glance: Bars
    rows: Sequence[TogetherRow]


def together_of(lineage: Lineage, matrix: Matrix) -> Together | None:
    """Return the first split's ensembles; None where there is no report on any."""
    artifact = lineage.artifact("ensemble_report")
    if "ensemble_report" not in lineage.kinds() or (record := artifact.read_record()) is None:
        return None
    split = matrix.splits[0]
    num_experts = EnsembleRecord.of(record).num_experts
    documents = max((a.macro.num_documents for a in matrix.averages if a.split == split), default=0)
    table = pq.read_table(artifact.folder / AVERAGES_NAME).to_pylist()
    rows = [_row(row, num_experts, documents) for row in table if row["split"] == split]
    # Reports that were made before every cell of `ensemble-label` had a figure hold NaN.
    rows.sort(key=lambda row: (math.isnan(row.bits), row.bits))
    labels = labels_of(num_experts, shown_merges(lineage))
    by_gain = sorted((r for r in rows if r.model in labels), key=lambda row: row.change.value)
    glance = [
        Measured(row.model, row.change, labels[row.model], _price(row.num_run)) for row in by_gain
    ]
    shown = bars_of(glance, title=f"Change from the seed, mean of domains, {split}")
    return Together(shown, rows)


def _row(row: dict[str, Any], num_experts: int, num_documents: int) -> TogetherRow:
    change = Estimate(
        row["change_from_seed"],
        row["change_from_seed_low"],
        row["change_from_seed_high"],
        num_documents,
    )
    return TogetherRow(
        model=row["model"],
        bits=row["macro_bits_per_byte"],
        low=row["macro_bits_per_byte_low"],
        high=row["macro_bits_per_byte_high"],
        change=change,
        num_run=num_experts_run(row["model"], num_experts),
    )


def _price(num_run: int) -> str:
    return "1 model runs per token" if num_run == 1 else f"{num_run} models run per token"
