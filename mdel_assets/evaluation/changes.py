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
    from mdel_assets.evaluation.matrix import Matrix

_PANELS_PER_ROW = 5
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
        for place, model in enumerate(models):
            if (model, dataset, split) not in matrix.bits:
                continue
            change = matrix.difference([(model, dataset, split)], [("seed", dataset, split)])
            whiskers = [[change.value - change.low], [change.high - change.value]]
            axes.barh(
                place,
                change.value,
                color=_colour(model),
                alpha=1.0 if model == f"expert-{dataset}" or model.startswith("dense") else 0.5,
                xerr=np.maximum(whiskers, 0.0),
                error_kw={"elinewidth": 1.0, "capsize": 1.5},
            )
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


def _colour(model: str) -> str:
    return _COLOURS.get(model.partition("-")[0], _OTHER_COLOUR)
