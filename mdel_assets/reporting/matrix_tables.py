"""The matrix as the page shows it: a table that is its own heatmap, and changes with intervals."""

import dataclasses
import math
from collections.abc import Sequence

from mdel_assets.evaluation.changes import scale_of
from mdel_assets.evaluation.heatmap import changes_in_percent, colour_limits
from mdel_assets.evaluation.matrix import Matrix
from mdel_assets.evaluation.sample_sizes import size_label
from mdel_assets.experiment.model_keys import SEED, Family, ModelKey
from mdel_assets.reporting.bars import Bars, Measured, bars_of

# Shades of each colour, and how far a change has to be from zero to have the first.
NUM_SHADES = 5
_MIN_SHADE = 0.06
# Models of which only the first ones stand in the changes of each domain.
_MOST_PER_FAMILY = 4


@dataclasses.dataclass(frozen=True)
class Cell:
    """A cell: its figure, its change from the seed, and its shade, as ``better-3``."""

    bits: str
    change: str
    shade: str
    is_own: bool
    is_sure: bool
    is_stale: bool


@dataclasses.dataclass(frozen=True)
class HeatRow:
    """A model's row; ``begins_family`` where a line is drawn above it."""

    model: str
    cells: Sequence[Cell]
    average: str
    begins_family: bool


@dataclasses.dataclass(frozen=True)
class Heat:
    """The table of one split. ``sizes`` say how much text each column is."""

    split: str
    datasets: Sequence[str]
    sizes: Sequence[str]
    rows: Sequence[HeatRow]
    strongest: float


def heat_of(matrix: Matrix, split: str) -> Heat:
    """Return the table of one split; a colour's full strength is as in the heatmap's picture."""
    changes = changes_in_percent(matrix, split)
    own = [not Family.REFERENCE.has(model) for model in matrix.models]
    _, limit = colour_limits([changes[own]])
    averages = {a.model: a for a in matrix.averages if a.split == split}
    rows = []
    before = None
    for number, model in enumerate(matrix.models):
        key = ModelKey.parse(model)
        cells = [
            _cell(matrix, (model, dataset, split), float(changes[number, column]) / limit)
            for column, dataset in enumerate(matrix.datasets)
        ]
        average = averages.get(model)
        told = f"{average.macro.value:.3f}" if average else ""
        rows.append(HeatRow(model, cells, told, bool(number) and key.family != before))
        before = key.family
    sizes = [size_label(matrix, dataset, split) for dataset in matrix.datasets]
    return Heat(split, matrix.datasets, sizes, rows, limit)


def _cell(matrix: Matrix, place: tuple[str, str, str], strength: float) -> Cell:
    row, change = matrix.row_of.get(place), matrix.change(place)
    model, dataset, _ = place
    if row is None or row["bits_per_byte"] is None:
        return Cell("no text", "", "", is_own=False, is_sure=False, is_stale=False)
    return Cell(
        bits=f"{row['bits_per_byte']:.3f}",
        change=f"{change.value:+.3f}" if change and model != SEED else "",
        shade=_shade(strength),
        is_own=ModelKey.parse(model) == ModelKey(Family.EXPERT, dataset),
        is_sure=bool(change and change.is_sure),
        is_stale=bool(row["is_stale"]),
    )


def _shade(strength: float) -> str:
    """Return the shade of a change of so much of a colour's full strength."""
    if math.isnan(strength) or abs(strength) < _MIN_SHADE:
        return ""
    number = min(NUM_SHADES, math.ceil(abs(strength) * NUM_SHADES))
    return f"{'better' if strength < 0 else 'worse'}-{number}"


def averages_of(matrix: Matrix, split: str) -> Bars:
    """Return every model's change from the seed, on the average of all domains."""
    rows = [
        Measured(average.model, average.change)
        for average in matrix.averages
        if average.split == split and _is_compared(average.model)
    ]
    return bars_of(rows, title=f"Mean of all domains, {split}")


def domain_changes(matrix: Matrix, split: str) -> list[Bars]:
    """Return, for each domain, the changes of its own expert, baselines and combined models.

    All have one scale. What experts of other domains do there is in the table.
    """
    found: dict[str, list[Measured]] = {}
    for dataset in matrix.datasets:
        if (SEED, dataset, split) not in matrix.bits:
            continue
        rows = []
        for model in _compared(matrix, dataset):
            if (model, dataset, split) not in matrix.bits:
                continue
            change = matrix.difference([(model, dataset, split)], [(SEED, dataset, split)])
            is_own = ModelKey.parse(model).family is Family.EXPERT
            rows.append(Measured(model, change, note="its own expert" if is_own else ""))
        found[dataset] = rows
    scale = scale_of([entry.change for rows in found.values() for entry in rows])
    return [bars_of(rows, title=dataset, scale=scale) for dataset, rows in found.items()]


def _compared(matrix: Matrix, dataset: str) -> list[str]:
    own = Family.EXPERT.key(dataset)
    models = [own] if own in matrix.models else []
    for family in (Family.DENSE, Family.MERGED, Family.MIXTURE):
        models += [model for model in matrix.models if family.has(model)][:_MOST_PER_FAMILY]
    return models


def _is_compared(model: str) -> bool:
    return model != SEED and not Family.REFERENCE.has(model)
