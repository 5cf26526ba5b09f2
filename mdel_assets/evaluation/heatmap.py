"""The heatmap of the perplexity matrix: models down, domains across, one panel per split.

The number is bits per byte; the colour is the change from the seed in per cent, blue if the model
is better. A dot marks a change with a 95 % interval that excludes zero, a dagger a cell with a
model or dataset that was remade since scoring.
"""

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from mdel_assets.charts import end_of_scale, figure, to_png
from mdel_assets.evaluation.sample_sizes import size_label
from mdel_assets.experiment.evaluation import MIN_DOCUMENTS
from mdel_assets.experiment.model_keys import Family, ModelKey

if TYPE_CHECKING:
    from mdel_assets.evaluation.matrix import Matrix


# Inches of a cell, and how many numbers can be read in a picture on a page.
_CELL, _SMALL_CELL = (0.78, 0.34), (0.26, 0.2)
_MAX_INLINE_NUMBERS = 200
# Points of text. The full file of a large matrix need not be sharper than its numbers are large.
_LABEL, _NUMBER, _NOTE = 8, 7.5, 8
_DPI, _MANY_CELLS_DPI, _MANY_CELLS = 130, 90, 400
_FRAME = "framed: the expert of that domain"
_DOT = (
    f"dot: the change from the seed is more than its 95 % interval, of {MIN_DOCUMENTS} documents "
    "or more"
)
_BRACKETS = "in brackets: documents"
_DAGGER = "dagger: model or dataset was remade since"


def draw_heatmap(matrix: "Matrix") -> bytes:
    """Return the heatmap as PNG bytes."""
    num_cells = len(matrix.models) * len(matrix.datasets)
    return to_png(heatmap_figure(matrix), dpi=_MANY_CELLS_DPI if num_cells > _MANY_CELLS else _DPI)


def inline_heatmap_figure(matrix: "Matrix") -> Any:
    """Return the first split's heatmap for a page; without numbers if they would be tiny."""
    num_cells = len(matrix.models) * len(matrix.datasets)
    return heatmap_figure(matrix, num_panels=1, with_numbers=num_cells <= _MAX_INLINE_NUMBERS)


def heatmap_figure(
    matrix: "Matrix", *, num_panels: int | None = None, with_numbers: bool = True
) -> Any:
    """Return the heatmap as a matplotlib figure, of the first ``num_panels`` splits or of all.

    Experts' own domains are framed, and lines separate the families of models.
    """
    splits = matrix.splits[:num_panels]
    rows, columns, panels = len(matrix.models), len(matrix.datasets), len(splits)
    cell = _CELL if with_numbers else _SMALL_CELL
    drawn = figure(width=2.6 + panels * (0.4 + cell[0] * columns), height=2.5 + cell[1] * rows)
    all_axes = drawn.subplots(1, panels, sharey=True, squeeze=False)[0]
    changes = {split: changes_in_percent(matrix, split) for split in splits}
    # A reference model may be far away, and must not wash out the others' colours.
    own = [not Family.REFERENCE.has(model) for model in matrix.models]
    highest, limit = colour_limits([changes[split][own] for split in splits])
    image = None
    for axes, split in zip(all_axes, splits, strict=True):
        image = axes.imshow(changes[split], cmap="RdBu_r", vmin=-limit, vmax=limit, aspect="auto")
        labels = [
            _dataset_label(matrix, dataset, split, is_short=not with_numbers)
            for dataset in matrix.datasets
        ]
        turn = {"rotation": 40 if with_numbers else 60, "rotation_mode": "anchor", "ha": "right"}
        axes.set_xticks(range(columns), labels, fontsize=_LABEL, **turn)
        axes.set_yticks(range(rows), matrix.models, fontsize=_LABEL)
        axes.set_title(split, fontsize=10)
        _mark_families(axes, matrix)
        for place in np.ndindex(rows, columns) if with_numbers else ():
            cell_place = (matrix.models[place[0]], matrix.datasets[place[1]], split)
            dark = bool(abs(changes[split][place]) > 0.6 * limit)
            _write_number(axes, place, _number(matrix, cell_place), dark=dark)
    drawn.colorbar(
        image,
        ax=list(all_axes),
        label="change from the seed, % (blue: better)",
        extend="both" if highest > limit else "neither",
    )
    drawn.suptitle("Bits per byte (lower is better)" if with_numbers else "Change in bits per byte")
    notes = [_FRAME, _DOT if with_numbers else _BRACKETS]
    if matrix.stale and with_numbers:
        notes.append(_DAGGER)
    drawn.supxlabel("\n".join(notes), fontsize=_NOTE, x=0.02, ha="left")
    return drawn


def _dataset_label(matrix: "Matrix", dataset: str, split: str, *, is_short: bool) -> str:
    """Return a column's label: the domain, or ``all but`` the domain on text of the others."""
    name = f"all but {dataset}" if split.endswith("_pile") else dataset
    if is_short:
        return f"{name} ({matrix.size(dataset, split)[0]:,})"
    return f"{name}\n{size_label(matrix, dataset, split)}"


def colour_limits(changes: list[NDArray[np.float64]]) -> tuple[float, float]:
    """Return the largest change, and the change from which on colours are saturated."""
    sizes = np.abs(np.concatenate([values.ravel() for values in changes]))
    highest = float(np.nanmax(sizes, initial=0.0))
    return highest, max(1.0, end_of_scale(sizes))


def changes_in_percent(matrix: "Matrix", split: str) -> NDArray[np.float64]:
    """Return the (models, datasets) change from the seed in per cent; NaN for missing cells."""
    found = np.full((len(matrix.models), len(matrix.datasets)), np.nan)
    for place in np.ndindex(*found.shape):
        row = matrix.row_of.get((matrix.models[place[0]], matrix.datasets[place[1]], split))
        if row and row["change_from_seed"] is not None and row["bits_per_byte"] is not None:
            change = float(row["change_from_seed"])
            found[place] = 100 * change / (float(row["bits_per_byte"]) - change)
    return found


def _mark_families(axes: Any, matrix: "Matrix") -> None:
    """Frame each expert's own domain, and separate the families of models by lines."""
    from matplotlib.patches import Rectangle

    families = [ModelKey.parse(model).family for model in matrix.models]
    for number, model in enumerate(matrix.models):
        if number and families[number] != families[number - 1]:
            axes.axhline(number - 0.5, color="black", linewidth=0.8)
        key = ModelKey.parse(model)
        if key.family is Family.EXPERT and key.name in matrix.datasets:
            corner = (matrix.datasets.index(key.name) - 0.5, number - 0.5)
            axes.add_patch(Rectangle(corner, 1, 1, fill=False, edgecolor="black", linewidth=1.4))


def _number(matrix: "Matrix", place: tuple[str, str, str]) -> str:
    row, change = matrix.row_of.get(place), matrix.change(place)
    if row is None or row["bits_per_byte"] is None:
        return "–"
    dot = " •" if change and change.is_sure else ""
    return f"{row['bits_per_byte']:.3f}{dot}{'†' if row['is_stale'] else ''}"


def _write_number(axes: Any, place: tuple[int, ...], text: str, *, dark: bool) -> None:
    colour = "white" if dark else "black"
    written = axes.text(
        place[1], place[0], text, ha="center", va="center", fontsize=_NUMBER, color=colour
    )
    # The layout need not look at each: they lie inside.
    written.set_in_layout(False)
