"""All models on all tasks, beside their bits per byte, and how the two go together."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from mdel_assets.tasks.results import Figure, TaskResult

# Fewer points lie on a line, or nearly.
_FEWEST = 4


class Column(NamedTuple):
    """A task, and the metric of it that is shown."""

    task: str
    metric: str


@dataclasses.dataclass(frozen=True)
class Correlation:
    """How a task's figures and bits per byte go together over ``num_models`` models.

    ``pearson`` and ``rank`` (Spearman's) are None for too few models, or where all figures are the
    same. By chance alone, ``pearson`` is beyond ``chance`` in one of twenty cases.
    """

    column: Column
    num_models: int
    pearson: float | None
    rank: float | None
    chance: float | None


@dataclasses.dataclass(frozen=True)
class Comparison:
    """Models by tasks: ``figures`` by model and column, ``bits`` per byte by model.

    ``bits`` are means over domains on ``split``, each domain counting once.
    """

    columns: Sequence[Column]
    figures: Mapping[str, Mapping[Column, Figure]]
    bits: Mapping[str, float]
    split: str
    correlations: Sequence[Correlation]

    def num_items(self, column: Column) -> int:
        """Return how many items of a task were run, on the model with the most."""
        return max(row[column].num_items for row in self.figures.values() if column in row)

    def is_higher_better(self, column: Column) -> bool | None:
        """Whether more of a metric is better; None where the harness does not say."""
        return next(r[column].is_higher_better for r in self.figures.values() if column in r)

    def as_rows(self) -> list[dict[str, Any]]:
        """Return a row for each figure, with the model's bits per byte."""
        return [
            {
                "model": model,
                **dataclasses.asdict(figure),
                "bits_per_byte": self.bits.get(model),
                "split": self.split,
            }
            for model, row in self.figures.items()
            for figure in row.values()
        ]


def compare(
    results: Mapping[str, Mapping[str, TaskResult]], bits: Mapping[str, float], *, split: str
) -> Comparison:
    """Return the comparison of models by their ``results`` and their ``bits`` per byte."""
    figures = {
        model: {Column(f.task, f.metric): f for result in own.values() for f in result.main}
        for model, own in results.items()
    }
    columns = list(dict.fromkeys(column for row in figures.values() for column in row))
    correlations = [correlation_of(column, figures, bits) for column in columns]
    return Comparison(columns, figures, bits, split, correlations)


def correlation_of(
    column: Column, figures: Mapping[str, Mapping[Column, Figure]], bits: Mapping[str, float]
) -> Correlation:
    """Return how the figures of a task and the models' bits per byte go together."""
    from scipy import stats

    both = [
        (bits[m], row[column].value) for m, row in figures.items() if column in row and m in bits
    ]
    count = len(both)
    x, y = ([pair[side] for pair in both] for side in (0, 1))
    if count < _FEWEST or len(set(x)) == 1 or len(set(y)) == 1:
        return Correlation(column, count, None, None, None)
    t = float(stats.t.ppf(0.975, count - 2))
    return Correlation(
        column,
        count,
        float(stats.pearsonr(x, y).statistic),
        float(stats.spearmanr(x, y).statistic),
        t / math.sqrt(count - 2 + t * t),
    )


def findings(comparison: Comparison) -> list[str]:
    """Say of each task how its figures and bits per byte go together, and what that is worth."""
    return [_sentence(each, comparison) for each in comparison.correlations]


def _sentence(found: Correlation, comparison: Comparison) -> str:
    task, metric = found.column
    count = "1 model has" if found.num_models == 1 else f"{found.num_models} models have"
    told = f"`{task}`: {count} `{metric}` and bits per byte on `{comparison.split}`"
    if found.num_models < _FEWEST:
        return f"{told}, too few for a correlation."
    if found.pearson is None or found.rank is None:
        return f"{told}; all of them have the same figure, so there is no correlation."
    told += f": Pearson {found.pearson:+.2f}, rank {found.rank:+.2f}."
    better = comparison.is_higher_better(found.column)
    if abs(found.pearson) <= (found.chance or 1.0):
        return (
            f"{told} Chance alone reaches {found.chance:.2f} in one of twenty cases with so many "
            f"models: this shows nothing."
        )
    agree = (found.pearson < 0) == (better is not False)
    words = "fewer bits go with better answers" if agree else "fewer bits go with worse answers"
    return (
        f"{told} Here {words}. Models that share a seed are alike, so this is weaker evidence than "
        f"as many independent models would give."
    )
