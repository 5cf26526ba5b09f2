"""The perplexity matrix: models by domains by splits, with averages and differences to the seed.

Micro average: all domains' text as one. Macro average: the mean over domains, each counting once.
Differences to the seed are paired: both models are resampled on the same documents.
"""

import dataclasses
import functools
import math
from collections.abc import Collection, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from mdel_assets.experiment.model_keys import SEED
from mdel_assets.scoring.estimates import Estimate, documents_behind
from mdel_assets.scoring.perplexity import Cell, interval

Row = dict[str, str | int | float | None]
# Model, dataset, split.
Place = tuple[str, str, str]


@dataclasses.dataclass(frozen=True)
class AverageRow:
    """A model's averages over the domains of one split, in bits per byte.

    ``change`` is the macro average minus the seed's, paired; ``draws`` are the macro averages of
    the bootstrap's draws, for other differences.
    """

    model: str
    split: str
    macro: Estimate
    micro: float
    change: Estimate
    draws: NDArray[np.float64]

    def against(self, other: "AverageRow") -> Estimate:
        """Return the macro average minus that of another model on the same documents, paired."""
        return Estimate(
            self.macro.value - other.macro.value,
            *interval(self.draws - other.draws),
            min(self.macro.num_documents, other.macro.num_documents),
        )


@dataclasses.dataclass(frozen=True)
class Matrix:
    """All rows, with averages; ``missing`` names models and cells without figures.

    ``bits``, ``draws`` and ``num_documents`` hold, per cell with text, bits per byte, its bootstrap
    draws, and its number of documents. ``stale`` are the cells with a model or dataset that was
    remade since scoring. ``legend`` describes datasets whose names do not; ``notes`` are further
    remarks for the reader.
    """

    models: list[str]
    datasets: list[str]
    splits: list[str]
    rows: list[Row]
    averages: list[AverageRow]
    missing: list[str]
    bits: Mapping[Place, float]
    draws: Mapping[Place, NDArray[np.float64]]
    num_documents: Mapping[Place, int]
    stale: Collection[Place] = ()
    legend: Mapping[str, str] = dataclasses.field(default_factory=dict)
    notes: Sequence[str] = ()

    @functools.cached_property
    def row_of(self) -> Mapping[Place, Row]:
        """Every row by its model, dataset and split."""
        return {_place(row): row for row in self.rows}

    def places(self, model: str, split: str) -> list[Place]:
        """Return a model's cells with text on one split, in the order of datasets."""
        return [
            (model, dataset, split)
            for dataset in self.datasets
            if (model, dataset, split) in self.bits
        ]

    def difference(self, ours: Sequence[Place], theirs: Sequence[Place]) -> Estimate:
        """Return the mean of ``ours`` minus that of ``theirs``, paired cell by cell."""
        pairs = list(zip(ours, theirs, strict=True))
        value = float(np.mean([self.bits[one] - self.bits[other] for one, other in pairs]))
        drawn = np.mean([self.draws[one] - self.draws[other] for one, other in pairs], axis=0)
        counts = [self.num_documents[place] for place in ours]
        return Estimate(value, *interval(drawn), documents_behind(counts))

    def change(self, place: Place) -> Estimate | None:
        """Return a cell's change from the seed; None if there is nothing to compare."""
        row = self.row_of.get(place)
        if row is None or row["change_from_seed"] is None:
            return None
        names = ("change_from_seed", "change_from_seed_low", "change_from_seed_high")
        value, low, high = (float(row[name] or 0.0) for name in names)
        return Estimate(value, low, high, int(row["num_documents"] or 0))

    def size(self, dataset: str, split: str) -> tuple[int, int]:
        """Return how many documents, and how many bytes, models were scored on."""
        rows = [self.row_of.get((model, dataset, split)) for model in self.models]
        found = [(int(r["num_documents"] or 0), int(r["num_bytes"] or 0)) for r in rows if r]
        return max(found, default=(0, 0))


def build_matrix(
    reports: Mapping[str, Sequence[Row]],
    cells_of: Mapping[str, Sequence[Cell]],
    *,
    datasets: Sequence[str],
    splits: Sequence[str],
    num_samples: int,
    seed: int,
    stale: Collection[Place] = (),
    unreported: Collection[str] = (),
    legend: Mapping[str, str] | None = None,
    notes: Sequence[str] = (),
) -> Matrix:
    """Return the matrix of ``reports`` (rows by model); ``cells_of`` models give differences.

    ``unreported`` are models without a report; ``stale``, ``legend`` and ``notes`` are as in
    `Matrix`.
    """
    samples: dict[Place, NDArray[np.float64]] = {}
    cells: dict[Place, Cell] = {}
    for model, own_cells in cells_of.items():
        for cell in own_cells:
            place = (model, cell.dataset, cell.split)
            cells[place] = cell
            if cell.num_bytes_D.sum():
                samples[place] = cell.samples(num_samples=num_samples, seed=seed)
    rows = [
        _with_change(row, cells, samples) | {"is_stale": _place(row) in stale}
        for model in cells_of
        for row in reports[model]
    ]
    found = {(row["model"], row["dataset"], row["split"]) for row in rows}
    missing = [f"{model} has no report" for model in unreported]
    missing += [
        f"{model} on {dataset}/{split}"
        for model in cells_of
        for dataset in datasets
        for split in splits
        if (model, dataset, split) not in found
    ]
    averages = [
        average
        for split in splits
        for model in cells_of
        if (average := _average(model, split, cells, samples))
    ]
    return Matrix(
        models=list(cells_of),
        datasets=list(datasets),
        splits=list(splits),
        rows=rows,
        averages=averages,
        missing=missing,
        bits={place: float(cells[place].bits_per_byte or 0) for place in samples},
        draws=samples,
        num_documents={place: len(cells[place].document_ids) for place in samples},
        stale=stale,
        legend=legend or {},
        notes=notes,
    )


def _with_change(
    row: Row, cells: Mapping[Place, Cell], samples: Mapping[Place, NDArray[np.float64]]
) -> Row:
    """Return the row with its bits per byte minus the seed's, and the paired interval."""
    own = _place(row)
    seed = (SEED, *own[1:])
    change: tuple[float | None, ...] = (None, None, None)
    if own in samples and seed in samples:
        value = float(cells[own].bits_per_byte or 0) - float(cells[seed].bits_per_byte or 0)
        change = (value, *interval(samples[own] - samples[seed]))
    names = ("change_from_seed", "change_from_seed_low", "change_from_seed_high")
    return {**row, **dict(zip(names, change, strict=True))}


def _place(row: Row) -> Place:
    return str(row["model"]), str(row["dataset"]), str(row["split"])


def _average(
    model: str,
    split: str,
    cells: Mapping[Place, Cell],
    samples: Mapping[Place, NDArray[np.float64]],
) -> AverageRow | None:
    """Return a model's averages over the datasets of ``split`` that hold text."""
    own = [place for place in samples if place[0] == model and place[2] == split]
    if not own:
        return None
    seeds = [(SEED, *place[1:]) for place in own]
    values = np.array([cells[place].bits_per_byte for place in own])
    seed_values = np.array([cells[place].bits_per_byte for place in seeds])
    drawn = np.mean([samples[place] for place in own], axis=0)
    seed_drawn = np.mean([samples[place] for place in seeds], axis=0)
    nll = sum(float(cells[place].nll_nats_D.sum()) for place in own)
    size = sum(int(cells[place].num_bytes_D.sum()) for place in own)
    count = documents_behind([len(cells[place].document_ids) for place in own])
    return AverageRow(
        model=model,
        split=split,
        macro=Estimate(float(values.mean()), *interval(drawn), count),
        micro=nll / size / math.log(2),
        change=Estimate(float((values - seed_values).mean()), *interval(drawn - seed_drawn), count),
        draws=drawn,
    )
