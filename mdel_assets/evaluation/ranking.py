"""Which model to take: all models by their average over domains, and what each is best at."""

from typing import TYPE_CHECKING

from mdel_assets.evaluation.findings import best_models, is_reference
from mdel_assets.evaluation.perplexity import interval

if TYPE_CHECKING:
    from mdel_assets.evaluation.matrix import AverageRow, Matrix

_NUM_NAMED = 3


def ranking_rows(matrix: "Matrix", split: str) -> list[list[str]]:
    """Return the table of models from the best average over domains on, its header first.

    A model is *as good* as the first where the paired 95 % interval of their difference does not
    leave out zero. Models from elsewhere come last and have no rank.
    """
    averages = sorted((a for a in matrix.averages if a.split == split), key=lambda a: a.macro.value)
    ranked = [average for average in averages if not is_reference(average.model)]
    best_on: dict[str, list[str]] = {}
    for best in best_models(matrix, split):
        best_on.setdefault(best.model, []).append(best.dataset)
    rows = [["Rank", "model", "average over domains", "95 % interval", "seed", "best on"]]
    for place, average in enumerate(ranked, 1):
        is_as_good = place > 1 and interval(average.draws - ranked[0].draws)[0] <= 0
        rank = f"{place} (as good)" if is_as_good else str(place)
        rows.append([rank, *_figures(average), _named(best_on.get(average.model, []))])
    references = [average for average in averages if is_reference(average.model)]
    return rows + [["–", *_figures(average), "–"] for average in references]


def _figures(average: "AverageRow") -> list[str]:
    macro, change = average.macro, average.change
    is_sure = not change.low <= 0 <= change.high
    shown = f"{change.value:+.4f}"
    return [
        average.model,
        f"{macro.value:.4f}",
        f"{macro.low:.3f} to {macro.high:.3f}",
        f"**{shown}**" if is_sure else shown,
    ]


def _named(datasets: list[str]) -> str:
    rest = len(datasets) - _NUM_NAMED
    named = ", ".join(datasets[:_NUM_NAMED])
    return f"{named} and {rest} more" if rest > 0 else named or "–"
