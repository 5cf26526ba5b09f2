"""A sweep: the gains of an expert's variants on their own domain and on general text.

A change is the variant's bits per byte minus the seed's on the same documents, with its paired 95 %
interval; negative is better.
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

from mdel_assets.charts import figure, to_png
from mdel_assets.experiment.model_keys import SEED

if TYPE_CHECKING:
    from mdel_assets.evaluation.matrix import Matrix
    from mdel_assets.scoring.estimates import Estimate


@dataclasses.dataclass(frozen=True)
class SweepEntry:
    """One expert or variant; ``changes`` are by split, on the dataset of ``domain``."""

    model: str
    domain: str
    num_trained_parameters: int
    num_tokens: int
    changes: "dict[str, Estimate]"


def sweep_entry(
    matrix: "Matrix", model: str, *, domain: str, num_trained_parameters: int, num_tokens: int
) -> SweepEntry:
    """Return a model's changes on the dataset of ``domain``, on splits that both have text on."""
    changes = {
        split: matrix.difference([(model, domain, split)], [(SEED, domain, split)])
        for split in matrix.splits
        if {(model, domain, split), (SEED, domain, split)} <= matrix.bits.keys()
    }
    return SweepEntry(model, domain, num_trained_parameters, num_tokens, changes)


def sweep_rows(entries: Sequence[SweepEntry]) -> list[dict[str, Any]]:
    """Return one row per entry and split."""
    return [
        {
            "model": entry.model,
            "domain": entry.domain,
            "num_trained_parameters": entry.num_trained_parameters,
            "num_tokens": entry.num_tokens,
            "split": split,
            "change_from_seed": change.value,
            "change_from_seed_low": change.low,
            "change_from_seed_high": change.high,
        }
        for entry in entries
        for split, change in entry.changes.items()
    ]


def sweep_markdown(entries: Sequence[SweepEntry]) -> str:
    """Return a table with one line per model and one column per split."""
    splits = list(dict.fromkeys(split for entry in entries for split in entry.changes))
    lines = [
        "| model | trained parameters | tokens | " + " | ".join(splits) + " |",
        "|---|---:|---:|" + "---|" * len(splits),
    ]
    for entry in entries:
        changes = [entry.changes.get(split) for split in splits]
        cells = [change.signed if change else "–" for change in changes]
        lines.append(
            f"| {entry.model} | {entry.num_trained_parameters:,} | {entry.num_tokens:,} | "
            + " | ".join(cells)
            + " |"
        )
    note = "Change from the seed in bits per byte, with its 95 % interval; negative is better."
    return "\n".join([note, "", *lines])


def draw_sweep(entries: Sequence[SweepEntry]) -> Any:
    """Return a figure with one line per model, and a point with its interval for each split."""
    splits = list(dict.fromkeys(split for entry in entries for split in entry.changes))
    drawn = figure(width=7.5, height=1.4 + 0.42 * len(entries))
    axes = drawn.add_subplot()
    for index, split in enumerate(splits):
        shift = 0.22 * (index - (len(splits) - 1) / 2)
        own = [(row, e.changes[split]) for row, e in enumerate(entries) if split in e.changes]
        values = [change.value for _, change in own]
        axes.errorbar(
            values,
            [row + shift for row, _ in own],
            xerr=[
                [max(0.0, change.value - change.low) for _, change in own],
                [max(0.0, change.high - change.value) for _, change in own],
            ],
            fmt="o",
            capsize=3,
            label=split,
        )
    axes.axvline(0.0, color="0.5", linewidth=1)
    axes.set_yticks(range(len(entries)), [entry.model for entry in entries])
    axes.invert_yaxis()
    axes.grid(alpha=0.3, axis="x")
    axes.set(xlabel="bits per byte, change from the seed (left is better)")
    axes.set_title("Variants of experts, each on its own domain's dataset")
    drawn.legend(loc="outside lower center", ncols=len(splits) or 1)
    return drawn


def write_sweep(entries: Sequence[SweepEntry], folder: Path) -> None:
    """Write ``sweep.parquet``, ``sweep.md`` and ``sweep.png``."""
    pq.write_table(pa.Table.from_pylist(sweep_rows(entries)), folder / "sweep.parquet")
    (folder / "sweep.md").write_text(sweep_markdown(entries) + "\n", "utf-8")
    (folder / "sweep.png").write_bytes(to_png(draw_sweep(entries)))
