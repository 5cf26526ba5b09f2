"""Which model to choose: all models by their average over domains, and what each is best at."""

from typing import TYPE_CHECKING

from mdel_assets.evaluation.findings import best_models
from mdel_assets.experiment.model_keys import Family
from mdel_assets.scoring.estimates import TOO_FEW

if TYPE_CHECKING:
    from mdel_assets.evaluation.matrix import AverageRow, Matrix

_NUM_NAMED = 3


def ranking_rows(matrix: "Matrix", split: str) -> list[list[str]]:
    """Return the table of models, the best average over domains first, after a header.

    A model is *as good* as the first if the paired 95 % interval of their difference contains zero;
    with too few documents this cannot be decided. Reference models come last and have no rank.
    """
    averages = sorted((a for a in matrix.averages if a.split == split), key=lambda a: a.macro.value)
    ranked = [average for average in averages if not Family.REFERENCE.has(average.model)]
    best_on: dict[str, list[str]] = {}
    for best in best_models(matrix, split):
        best_on.setdefault(best.model, []).append(best.dataset)
    rows = [["Rank", "model", "average over domains", "95 % interval", "seed", "best on"]]
    for place, average in enumerate(ranked, 1):
        rank = f"{place}{_doubt(average, ranked[0])}" if place > 1 else str(place)
        rows.append([rank, *_figures(average), _named(best_on.get(average.model, []))])
    references = [average for average in averages if Family.REFERENCE.has(average.model)]
    return rows + [["–", *_figures(average), "–"] for average in references]


def _doubt(average: "AverageRow", first: "AverageRow") -> str:
    behind = average.against(first)
    if not behind.is_enough:
        return f" ({TOO_FEW})"
    return "" if behind.is_worse else " (as good)"


def _figures(average: "AverageRow") -> list[str]:
    macro, change = average.macro, average.change
    return [
        average.model,
        f"{macro.value:.4f}",
        f"{macro.low:.3f} to {macro.high:.3f}",
        change.marked(f"{change.value:+.4f}"),
    ]


def _named(datasets: list[str]) -> str:
    rest = len(datasets) - _NUM_NAMED
    named = ", ".join(datasets[:_NUM_NAMED])
    return f"{named} and {rest} more" if rest > 0 else named or "–"
