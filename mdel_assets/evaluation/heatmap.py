"""The heatmap of the perplexity matrix: models down, domains across, one panel per split.

The number is bits per byte; the colour is the change against the seed in per cent, blue where the
model is better. A dot marks a change whose 95 % interval leaves out zero, a dagger a cell whose
model or dataset was made anew since it was scored.
"""

from typing import TYPE_CHECKING, Any

import numpy as np

from mdel_assets.charts import figure, to_png
from mdel_assets.evaluation.findings import is_reference

if TYPE_CHECKING:
    from mdel_assets.evaluation.matrix import Matrix


def draw_heatmap(matrix: "Matrix") -> bytes:
    """Return the heatmap as PNG bytes."""
    return to_png(heatmap_figure(matrix))


def heatmap_figure(matrix: "Matrix", *, num_panels: int | None = None) -> Any:
    """Return the heatmap as a matplotlib figure, of the first ``num_panels`` splits or of all."""
    splits = matrix.splits[:num_panels]
    cells = {(r["model"], r["dataset"], r["split"]): r for r in matrix.rows}
    rows, columns, panels = len(matrix.models), len(matrix.datasets), len(splits)
    drawn = figure(width=2.6 + panels * (0.6 + 0.95 * columns), height=2.0 + 0.36 * rows)
    all_axes = drawn.subplots(1, panels, sharey=True, squeeze=False)[0]
    changes = {split: np.full((rows, columns), np.nan) for split in splits}
    for split, values in changes.items():
        for place in np.ndindex(rows, columns):
            row = cells.get((matrix.models[place[0]], matrix.datasets[place[1]], split))
            if row and row["change_from_seed"] is not None and row["bits_per_byte"] is not None:
                change = float(row["change_from_seed"])
                values[place] = 100 * change / (float(row["bits_per_byte"]) - change)
    # A model from elsewhere may be far away: it must not drown the others' colours.
    own = [not is_reference(model) for model in matrix.models]
    limit = max(np.nanmax(np.abs(v[own]), initial=1.0) for v in changes.values())
    image = None
    for axes, split in zip(all_axes, splits, strict=True):
        image = axes.imshow(changes[split], cmap="RdBu_r", vmin=-limit, vmax=limit, aspect="auto")
        axes.set_xticks(range(columns), matrix.datasets, rotation=35, ha="right")
        axes.set_yticks(range(rows), matrix.models)
        axes.set_title(split)
        for place in np.ndindex(rows, columns):
            row = cells.get((matrix.models[place[0]], matrix.datasets[place[1]], split))
            _write_number(axes, place, row, dark=abs(changes[split][place]) > 0.6 * limit)
    drawn.colorbar(image, ax=list(all_axes), label="change from the seed, % (blue: better)")
    drawn.suptitle("Bits per byte (lower is better)")
    return drawn


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
    axes.text(place[1], place[0], text, ha="center", va="center", fontsize=8, color=colour)
