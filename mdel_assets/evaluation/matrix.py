"""The perplexity matrix: models by domains by splits, with averages and differences to the seed.

Micro average: all domains' text as one. Macro average: the mean over domains, each counting once.
Differences to the seed are paired: both models are resampled on the same documents. With several
trainings of the models, figures are means over trainings, and differences are also paired over
these: a model's third training is compared with the third of the seed.
"""

import dataclasses
import functools
import math
from collections.abc import Collection, Mapping, Sequence
from typing import cast

import numpy as np

from mdel_assets.experiment.evaluation import shares_documents
from mdel_assets.experiment.model_keys import SEED
from mdel_assets.scoring.estimates import Estimate
from mdel_assets.scoring.perplexity import Cell, measures
from mdel_assets.scoring.trainings import Figure, mean_of

Row = dict[str, str | int | float | None]
# Model, dataset, split.
Place = tuple[str, str, str]


@dataclasses.dataclass(frozen=True)
class AverageRow:
    """A model's averages over the compared domains of one split, in bits per byte.

    ``change`` is the macro average minus the seed's, paired; ``figure`` is the macro average with
    its draws, for other differences.
    """

    model: str
    split: str
    macro: Estimate
    micro: float
    change: Estimate
    figure: Figure

    def against(self, other: "AverageRow") -> Estimate:
        """Return the macro average minus that of another model on the same documents, paired."""
        return (self.figure - other.figure).estimate()


@dataclasses.dataclass(frozen=True)
class Matrix:
    """All rows, with averages; ``missing`` names models and cells without figures.

    ``figures`` hold, per cell with text, bits per byte of each training and its bootstrap draws.
    ``stale`` are the cells with a model or dataset that was remade since scoring. ``legend``
    describes datasets whose names do not; ``notes`` are further remarks for the reader.
    """

    models: list[str]
    datasets: list[str]
    splits: list[str]
    rows: list[Row]
    averages: list[AverageRow]
    missing: list[str]
    figures: Mapping[Place, Figure]
    stale: Collection[Place] = ()
    legend: Mapping[str, str] = dataclasses.field(default_factory=dict)
    notes: Sequence[str] = ()

    @functools.cached_property
    def row_of(self) -> Mapping[Place, Row]:
        """Every row by its model, dataset and split."""
        return {_place(row): row for row in self.rows}

    @functools.cached_property
    def bits(self) -> Mapping[Place, float]:
        """Bits per byte of every cell with text, the mean over trainings."""
        return {place: figure.value for place, figure in self.figures.items()}

    @functools.cached_property
    def num_trainings(self) -> int:
        """Of how many trainings the figures are, at most."""
        return max((figure.num_trainings for figure in self.figures.values()), default=1)

    @property
    def over(self) -> str:
        """What intervals are over, as words behind *interval*; none for documents alone."""
        count = self.num_trainings
        return "" if count == 1 else f" over documents and {count} trainings"

    @property
    def intervals_in_words(self) -> str:
        """What intervals hold, and what they do not, as a sentence."""
        if self.num_trainings == 1:
            return (
                "Intervals are over documents alone: they do not hold what another training of "
                "the same models would change. `replicates: 3` in the experiment measures that."
            )
        most: dict[str, int] = {}
        for (model, _, _), figure in self.figures.items():
            most[model] = max(most.get(model, 1), figure.num_trainings)
        fewer = [f"`{m}` {count}" for m, count in most.items() if count < self.num_trainings]
        rest = f" Of fewer trainings: {', '.join(fewer)}." if fewer else ""
        return f"Figures are means, and intervals are{self.over}.{rest}"

    def compared(self, split: str) -> list[str]:
        """Return the datasets of a split that averages and comparisons are of, in their order."""
        known = _compared(self.figures, split)
        return [dataset for dataset in self.datasets if dataset in known]

    def places(self, model: str, split: str) -> list[Place]:
        """Return a model's compared cells on one split, in the order of datasets."""
        return [
            (model, dataset, split)
            for dataset in self.compared(split)
            if (model, dataset, split) in self.figures
        ]

    def difference(self, ours: Sequence[Place], theirs: Sequence[Place]) -> Estimate:
        """Return the mean of ``ours`` minus that of ``theirs``, paired cell by cell."""
        pairs = zip(ours, theirs, strict=True)
        return mean_of([self.figures[one] - self.figures[other] for one, other in pairs]).estimate()

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


def _compared(figures: Collection[Place], split: str) -> list[str]:
    """Return the datasets on which the seed has a figure, and every model with any on ``split``.

    Averages over others would not compare. Where no scores are missing, these are all with text.
    """
    there = [(model, dataset) for model, dataset, other in figures if other == split]
    models = {SEED, *(model for model, _ in there)}
    datasets = dict.fromkeys(dataset for _, dataset in there)
    return [d for d in datasets if all((model, d, split) in figures for model in models)]


def build_matrix(
    reports: Mapping[str, Sequence[Row]],
    cells_of: Mapping[str, Sequence[Cell]],
    *,
    datasets: Sequence[str],
    splits: Sequence[str],
    num_samples: int,
    seed: int,
    further: Sequence[Mapping[str, Sequence[Cell]]] = (),
    stale: Collection[Place] = (),
    unreported: Collection[str] = (),
    legend: Mapping[str, str] | None = None,
    notes: Sequence[str] = (),
) -> Matrix:
    """Return the matrix of ``reports`` (rows by model); ``cells_of`` models give differences.

    ``further`` are the cells of further trainings, models by their names in each. ``unreported``
    are models without a report; ``stale``, ``legend`` and ``notes`` are as in `Matrix`.
    """
    trained = _trainings(cells_of, further)
    figures = {
        place: _figure(found, num_samples=num_samples, seed=seed)
        for place, found in trained.items()
        if found[0].num_bytes_D.sum()
    }
    rows = [
        _with_change(_with_trainings(row, trained, figures) if further else row, figures)
        | {"is_stale": _place(row) in stale}
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
        for known in [[name for name in _compared(figures, split) if name in datasets]]
        for distinct in [_num_distinct(split, known, trained)]
        for model in cells_of
        if (average := _average(model, split, known, trained, figures, num_distinct=distinct))
    ]
    return Matrix(
        models=list(cells_of),
        datasets=list(datasets),
        splits=list(splits),
        rows=rows,
        averages=averages,
        missing=missing,
        figures=figures,
        stale=stale,
        legend=legend or {},
        notes=notes,
    )


def _trainings(
    cells_of: Mapping[str, Sequence[Cell]], further: Sequence[Mapping[str, Sequence[Cell]]]
) -> dict[Place, list[Cell]]:
    """Return the cells of all trainings that follow one another, by place, the line's own first."""
    found = {
        (model, cell.dataset, cell.split): [cell] for model, own in cells_of.items() for cell in own
    }
    for number, others in enumerate(further, start=1):
        for model, own in others.items():
            for cell in own:
                known = found.get((model, cell.dataset, cell.split), [])
                if len(known) == number and known[0].document_ids == cell.document_ids:
                    known.append(cell)
    return found


def _figure(trainings: Sequence[Cell], *, num_samples: int, seed: int) -> Figure:
    return Figure(
        np.array([cell.bits_per_byte or 0.0 for cell in trainings]),
        np.stack([cell.samples(num_samples=num_samples, seed=seed) for cell in trainings]),
        len(trainings[0].document_ids),
    )


def _with_trainings(
    row: Row, trained: Mapping[Place, Sequence[Cell]], figures: Mapping[Place, Figure]
) -> Row:
    """Return the row of a first training as that of the mean over all of them."""
    place = _place(row)
    if place not in figures:
        return row | {"num_trainings": 1}
    low, high = figures[place].bounds()
    own = trained[place]
    mean = dataclasses.replace(own[0], nll_nats_D=np.mean([c.nll_nats_D for c in own], axis=0))
    return row | {
        **cast("Row", measures(mean)),
        "bits_per_byte_low": low,
        "bits_per_byte_high": high,
        "num_trainings": figures[place].num_trainings,
    }


def _with_change(row: Row, figures: Mapping[Place, Figure]) -> Row:
    """Return the row with its bits per byte minus the seed's, and the paired interval."""
    own = _place(row)
    seed = (SEED, *own[1:])
    change: tuple[float | None, ...] = (None, None, None)
    if own in figures and seed in figures:
        difference = figures[own] - figures[seed]
        change = (difference.value, *difference.bounds())
    names = ("change_from_seed", "change_from_seed_low", "change_from_seed_high")
    return {**row, **dict(zip(names, change, strict=True))}


def _place(row: Row) -> Place:
    return str(row["model"]), str(row["dataset"]), str(row["split"])


def _num_distinct(
    split: str, datasets: Collection[str], trained: Mapping[Place, Sequence[Cell]]
) -> int:
    """Return of how many documents the figures of ``datasets`` are, each counted once."""
    cells = [trained[SEED, dataset, split][0] for dataset in datasets]
    if not shares_documents(split):
        return sum(len(cell.document_ids) for cell in cells)
    return len({key for cell in cells for key in cell.document_ids})


def _average(
    model: str,
    split: str,
    datasets: Collection[str],
    trained: Mapping[Place, Sequence[Cell]],
    figures: Mapping[Place, Figure],
    *,
    num_distinct: int,
) -> AverageRow | None:
    """Return a model's averages over ``datasets``, those compared on ``split``; None without.

    They are of ``num_distinct`` documents: domains may hold the same ones.
    """
    own = [
        place
        for place in figures
        if place[0] == model and place[1] in datasets and place[2] == split
    ]
    if not own:
        return None
    seeds: list[Place] = [(SEED, *place[1:]) for place in own]
    mean = mean_of([figures[place] for place in own])
    mean = dataclasses.replace(mean, num_documents=min(mean.num_documents, num_distinct))
    change = mean - mean_of([figures[place] for place in seeds])
    # The mean of the differences rounds as that of each cell does.
    pairs = zip(own, seeds, strict=True)
    differences = mean_of([figures[one] - figures[other] for one, other in pairs])
    change = dataclasses.replace(change, values_R=differences.values_R)
    size = sum(int(trained[place][0].num_bytes_D.sum()) for place in own)
    micros = [
        sum(float(trained[place][number].nll_nats_D.sum()) for place in own) / size / math.log(2)
        for number in range(len(mean.values_R))
    ]
    return AverageRow(
        model=model,
        split=split,
        macro=mean.estimate(),
        micro=float(np.mean(micros)),
        change=change.estimate(),
        figure=mean,
    )
