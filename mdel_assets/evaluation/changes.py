"""A chart of every model's change from the seed on each domain, with 95 % intervals.

One panel per domain, one bar per model: to the left of zero the model is better than the seed. All
panels have one scale. Experts of the panel's own domain and baselines stand out. Reference models
are left out, because their changes would dwarf the others; for the same reason a bar that is much
longer than the others is cut and its length written on it.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from mdel_assets.charts import end_of_scale, figure
from mdel_assets.evaluation.sample_sizes import size_label, total_label
from mdel_assets.experiment.model_keys import SEED, Family, ModelKey

if TYPE_CHECKING:
    from mdel_assets.evaluation.matrix import Matrix
    from mdel_assets.scoring.estimates import Estimate

_MAX_INLINE_BARS = 200
# Inches. A picture on a page has panels for three domains side by side, a file for five.
_PANEL, _BAR = 1.75, 0.17
# From the middle of the outer bars to a panel's edge, in bars.
_EDGE = 0.7
_PANELS_PER_ROW, _INLINE_PANELS_PER_ROW = 5, 3
_SCALE = "bits per byte, change from the seed (left of zero: better), with 95 % intervals{over}"
_FAMILIES: dict[Family | None, tuple[str, str]] = {
    Family.DENSE: ("tab:orange", "one model of all domains"),
    Family.EXPERT: ("tab:blue", "expert (strong: of that domain)"),
    Family.VARIANT: ("tab:cyan", "variant of an expert"),
    Family.RANDOM: ("0.65", "expert of a random split"),
    Family.MERGED: ("tab:green", "merged model"),
    Family.MIXTURE: ("tab:olive", "mixture of experts"),
}
_OTHER = ("tab:purple", "other model")


def changes_figure(matrix: "Matrix", split: str, *, panels_per_row: int = _PANELS_PER_ROW) -> Any:
    """Return the changes from the seed on ``split`` as a matplotlib figure."""
    datasets = [d for d in matrix.datasets if (SEED, d, split) in matrix.bits]
    models = [model for model in matrix.models if model != SEED and not Family.REFERENCE.has(model)]
    changes = {
        (model, dataset): matrix.difference([(model, dataset, split)], [(SEED, dataset, split)])
        for dataset in datasets
        for model in models
        if (model, dataset, split) in matrix.bits
    }
    num_rows = max(1, -(-len(datasets) // panels_per_row))
    num_columns = max(1, -(-len(datasets) // num_rows))
    drawn = figure(
        width=2.0 + _PANEL * num_columns,
        height=1.4 + num_rows * (0.75 + _BAR * max(1, len(models))),
    )
    # Panels that shared their models' axis would each draw a tick for every model.
    grid = drawn.subplots(num_rows, num_columns, sharex=True, squeeze=False)
    limits = scale_of(list(changes.values()))
    for axes, dataset in zip(grid.flat, datasets, strict=False):
        own = {m: changes[m, dataset] for m in models if (m, dataset) in changes}
        places = [models.index(model) for model in own]
        colours = [_colour(model, dataset) for model in own]
        _draw_bars(axes, places, list(own.values()), colours, limits)
        axes.set_title(dataset, fontsize=9, pad=14)
        label = size_label(matrix, dataset, split)
        axes.text(0.5, 1.02, label, transform=axes.transAxes, ha="center", fontsize=7)
        axes.set_ylim(len(models) - 1 + _EDGE, -_EDGE)
        is_left = axes.get_subplotspec().is_first_col()
        axes.set_yticks(range(len(models)) if is_left else [], models if is_left else [])
    for axes in grid.flat[len(datasets) :]:
        axes.set_visible(False)
    _explain(drawn, matrix, models, title=f"Change from the seed on {split}")
    return drawn


def averages_figure(matrix: "Matrix", split: str) -> Any:
    """Return the changes on the average of all domains, one bar per model."""
    rows = [
        average
        for average in matrix.averages
        if average.split == split
        and average.model != SEED
        and not Family.REFERENCE.has(average.model)
    ]
    models = [average.model for average in rows]
    changes = [average.change for average in rows]
    drawn = figure(width=7.0, height=1.6 + 0.19 * max(1, len(rows)))
    axes = drawn.add_subplot()
    colours = [_colour(model, "") for model in models]
    _draw_bars(axes, list(range(len(rows))), changes, colours, scale_of(changes))
    axes.set_yticks(range(len(rows)), models)
    axes.invert_yaxis()
    axes.set_title(total_label(matrix, split), fontsize=8)
    title = f"Change from the seed on {split}, mean of all domains"
    _explain(drawn, matrix, models, title=title)
    return drawn


def inline_changes_figure(matrix: "Matrix") -> Any:
    """Return the first split's changes for a page; only the averages if there are too many."""
    split = matrix.splits[0]
    if len(matrix.models) * len(matrix.datasets) > _MAX_INLINE_BARS:
        return averages_figure(matrix, split)
    return changes_figure(matrix, split, panels_per_row=_INLINE_PANELS_PER_ROW)


def _explain(drawn: Any, matrix: "Matrix", models: Sequence[str], *, title: str) -> None:
    """Add title, scale and a legend of the families of models that are shown."""
    from matplotlib.patches import Patch

    families = dict.fromkeys(_look_of(model) for model in models)
    handles = [Patch(color=colour, label=label) for colour, label in families]
    for axes in drawn.axes:
        axes.tick_params(labelsize=7)
    drawn.suptitle(title, fontsize=10)
    drawn.legend(
        handles=handles,
        title=_SCALE.format(over=matrix.over),
        loc="outside lower center",
        ncols=3,
        fontsize=7,
        title_fontsize=8,
        frameon=False,
    )


def scale_of(changes: "Sequence[Estimate]") -> tuple[float, float]:
    """Return the ends of the scale, chosen so that a few long bars do not shrink all others."""
    ends = np.array([[change.low, change.high] for change in changes] or [[0.0, 0.0]])
    far = end_of_scale(np.abs(ends).max(axis=1))
    low, high = max(-far, min(0.0, ends.min())), min(far, max(0.0, ends.max()))
    room = 0.05 * (high - low) or 0.01
    return low - room, high + room


def _draw_bars(
    axes: Any,
    places: Sequence[int],
    changes: "Sequence[Estimate]",
    colours: Sequence[Any],
    limits: tuple[float, float],
) -> None:
    values = [change.value for change in changes]
    axes.barh(places, values, color=colours)
    axes.hlines(places, [c.low for c in changes], [c.high for c in changes], color="black", lw=1.0)
    axes.axvline(0.0, color="black", linewidth=0.8)
    axes.set_xlim(*limits)
    for place, value in zip(places, values, strict=True):
        if not limits[0] <= value <= limits[1]:
            end, side = (limits[1], "right") if value > 0 else (limits[0], "left")
            axes.text(end, place, f" {value:+.2f} ", ha=side, va="center", fontsize=6.5)
    axes.locator_params(axis="x", nbins=5)
    axes.grid(alpha=0.3, axis="x")


def _colour(model: str, dataset: str) -> Any:
    """Return a model's colour, strong for baselines and for the expert of the dataset."""
    from matplotlib.colors import to_rgba

    key = ModelKey.parse(model)
    is_strong = key == ModelKey(Family.EXPERT, dataset) or key.family is Family.DENSE
    return to_rgba(_look_of(model)[0], 1.0 if is_strong else 0.5)


def _look_of(model: str) -> tuple[str, str]:
    """Return the colour and the legend of a model's family."""
    return _FAMILIES.get(ModelKey.parse(model).family, _OTHER)
