"""The heatmap of the perplexity matrix: models down, domains across, one panel per split.

The number is bits per byte; the colour is the change against the seed in per cent, blue where the
model is better. A dot marks a change whose 95 % interval leaves out zero, a dagger a cell whose
model or dataset was made anew since it was scored.
"""

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from mdel_assets.charts import figure, to_png
from mdel_assets.evaluation.findings import is_reference

if TYPE_CHECKING:
    from mdel_assets.evaluation.matrix import Matrix


# Inches of a cell, and how many numbers can be read in a picture on a page.
_CELL, _SMALL_CELL = (0.95, 0.36), (0.3, 0.2)
_MAX_INLINE_NUMBERS = 200


def draw_heatmap(matrix: "Matrix") -> bytes:
    """Return the heatmap as PNG bytes."""
    return to_png(heatmap_figure(matrix))


def inline_heatmap_figure(matrix: "Matrix") -> Any:
    """Return the first split's heatmap for a page: in colours alone where numbers would be tiny."""
    num_cells = len(matrix.models) * len(matrix.datasets)
    return heatmap_figure(matrix, num_panels=1, with_numbers=num_cells <= _MAX_INLINE_NUMBERS)


def heatmap_figure(
    matrix: "Matrix", *, num_panels: int | None = None, with_numbers: bool = True
) -> Any:
    """Return the heatmap as a matplotlib figure, of the first ``num_panels`` splits or of all.

    Experts' own domains are framed, and lines part the families of models.
    """
    splits = matrix.splits[:num_panels]
    rows, columns, panels = len(matrix.models), len(matrix.datasets), len(splits)
    cell = _CELL if with_numbers else _SMALL_CELL
    drawn = figure(width=2.6 + panels * (0.6 + cell[0] * columns), height=2.0 + cell[1] * rows)
    all_axes = drawn.subplots(1, panels, sharey=True, squeeze=False)[0]
    changes = {split: _changes(matrix, split) for split in splits}
    # A model from elsewhere may be far away: it must not drown the others' colours.
    own = [not is_reference(model) for model in matrix.models]
    limit = max(np.nanmax(np.abs(v[own]), initial=1.0) for v in changes.values())
    image = None
    for axes, split in zip(all_axes, splits, strict=True):
        image = axes.imshow(changes[split], cmap="RdBu_r", vmin=-limit, vmax=limit, aspect="auto")
        axes.set_xticks(range(columns), matrix.datasets, rotation=35, ha="right")
        axes.set_yticks(range(rows), matrix.models)
        axes.set_title(split)
        _mark_families(axes, matrix)
        for place in np.ndindex(rows, columns) if with_numbers else ():
            row = matrix.row_of.get((matrix.models[place[0]], matrix.datasets[place[1]], split))
            _write_number(axes, place, row, dark=abs(changes[split][place]) > 0.6 * limit)
    drawn.colorbar(image, ax=list(all_axes), label="change from the seed, % (blue: better)")
    title = "Bits per byte (lower is better)" if with_numbers else "Change in bits per byte"
    drawn.suptitle(title)
    return drawn


def _changes(matrix: "Matrix", split: str) -> NDArray[np.float64]:
    """Return (models, datasets) the change from the seed in per cent; NaN where there is none."""
    found = np.full((len(matrix.models), len(matrix.datasets)), np.nan)
    for place in np.ndindex(*found.shape):
        row = matrix.row_of.get((matrix.models[place[0]], matrix.datasets[place[1]], split))
        if row and row["change_from_seed"] is not None and row["bits_per_byte"] is not None:
            change = float(row["change_from_seed"])
            found[place] = 100 * change / (float(row["bits_per_byte"]) - change)
    return found


def _mark_families(axes: Any, matrix: "Matrix") -> None:
    """Frame each expert's own domain, and part the families of models by lines."""
    from matplotlib.patches import Rectangle

    families = [model.partition("-")[0] for model in matrix.models]
    for number, model in enumerate(matrix.models):
        if number and families[number] != families[number - 1]:
            axes.axhline(number - 0.5, color="black", linewidth=0.8)
        domain = model.removeprefix("expert-")
        if model != domain and domain in matrix.datasets:
            corner = (matrix.datasets.index(domain) - 0.5, number - 0.5)
            axes.add_patch(Rectangle(corner, 1, 1, fill=False, edgecolor="black", linewidth=1.4))


def _write_number(axes: Any, place: tuple[int, ...], row: Any, *, dark: bool) -> None:
    text = "–"
    if row and row["bits_per_byte"] is not None:
        text = f"{row['bits_per_byte']:.3f}"
        low, high = row["change_from_seed_low"], row["change_from_seed_high"]
        if low is not None and not low <= 0 <= high:
            text += " •"
        if row["is_stale"]:
            text += "†"
    colour = "white" if dark else "black"
    written = axes.text(
        place[1], place[0], text, ha="center", va="center", fontsize=8, color=colour
    )
    # The layout need not look at each: they lie inside.
    written.set_in_layout(False)
