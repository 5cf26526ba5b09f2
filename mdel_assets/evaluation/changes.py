"""How far every model is from the seed on each domain, as bars with their 95 % intervals.

One panel per domain, one bar per model: to the left of zero the model is better than the seed.
Experts of the panel's own domain stand out, and so do baselines. Models from elsewhere are left
out: next to them the others' changes could not be told apart.
"""

from typing import TYPE_CHECKING, Any

import numpy as np

from mdel_assets.charts import figure
from mdel_assets.evaluation.findings import is_reference

if TYPE_CHECKING:
    from mdel_assets.evaluation.estimates import Estimate
    from mdel_assets.evaluation.matrix import Matrix

_PANELS_PER_ROW = 5
_MAX_INLINE_BARS = 200
_COLOURS = {"expert": "tab:blue", "merged": "tab:green", "dense": "tab:orange", "random": "0.65"}
_OTHER_COLOUR = "tab:purple"


def changes_figure(matrix: "Matrix", split: str) -> Any:
    """Return the changes from the seed on ``split`` as a matplotlib figure."""
    datasets = [d for d in matrix.datasets if ("seed", d, split) in matrix.bits]
    models = [model for model in matrix.models if model != "seed" and not is_reference(model)]
    num_rows = max(1, -(-len(datasets) // _PANELS_PER_ROW))
    num_columns = max(1, -(-len(datasets) // num_rows))
    drawn = figure(
        width=1.8 + 2.3 * num_columns, height=0.9 + num_rows * (0.6 + 0.19 * max(1, len(models)))
    )
    grid = drawn.subplots(num_rows, num_columns, sharey=True, squeeze=False)
    for axes, dataset in zip(grid.flat, datasets, strict=False):
        shown = [n for n, model in enumerate(models) if (model, dataset, split) in matrix.bits]
        changes = [
            matrix.difference([(models[n], dataset, split)], [("seed", dataset, split)])
            for n in shown
        ]
        _draw_bars(axes, shown, changes, [_colour(models[n], dataset) for n in shown])
        axes.axvline(0.0, color="black", linewidth=0.8)
        axes.set_yticks(range(len(models)), models, fontsize=7)
        axes.tick_params(axis="x", labelsize=7)
        axes.locator_params(axis="x", nbins=4)
        axes.set_title(dataset, fontsize=9)
        axes.grid(alpha=0.3, axis="x")
    for axes in grid.flat[len(datasets) :]:
        axes.set_visible(False)
    grid.flat[0].invert_yaxis()
    drawn.supxlabel("bits per byte against the seed (left: better), 95 % intervals", fontsize=9)
    drawn.suptitle(split, fontsize=10)
    return drawn


def averages_figure(matrix: "Matrix", split: str) -> Any:
    """Return the changes on the average of all domains, one bar per model."""
    rows = [
        average
        for average in matrix.averages
        if average.split == split and average.model != "seed" and not is_reference(average.model)
    ]
    drawn = figure(width=7.0, height=1.2 + 0.19 * max(1, len(rows)))
    axes = drawn.add_subplot()
    colours = [_colour(average.model, "") for average in rows]
    _draw_bars(axes, list(range(len(rows))), [average.change for average in rows], colours)
    axes.axvline(0.0, color="black", linewidth=0.8)
    axes.set_yticks(range(len(rows)), [average.model for average in rows], fontsize=7)
    axes.grid(alpha=0.3, axis="x")
    axes.invert_yaxis()
    axes.set_xlabel("bits per byte against the seed (left: better), 95 % intervals", fontsize=9)
    axes.set_title(f"{split}, mean of all domains", fontsize=10)
    return drawn


def inline_changes_figure(matrix: "Matrix") -> Any:
    """Return the first split's changes for a page: their averages where there are too many."""
    split = matrix.splits[0]
    if len(matrix.models) * len(matrix.datasets) > _MAX_INLINE_BARS:
        return averages_figure(matrix, split)
    return changes_figure(matrix, split)


def _draw_bars(axes: Any, places: list[int], changes: "list[Estimate]", colours: list[Any]) -> None:
    whiskers = [[c.value - c.low for c in changes], [c.high - c.value for c in changes]]
    axes.barh(
        places,
        [change.value for change in changes],
        color=colours,
        xerr=np.maximum(whiskers, 0.0),
        error_kw={"elinewidth": 1.0, "capsize": 1.5},
    )


def _colour(model: str, dataset: str) -> Any:
    """Return a model's colour, strong for baselines and for the expert of the dataset."""
    from matplotlib.colors import to_rgba

    is_strong = model == f"expert-{dataset}" or model.startswith("dense")
    return to_rgba(_COLOURS.get(model.partition("-")[0], _OTHER_COLOUR), 1.0 if is_strong else 0.5)
