"""The chart of tasks: each task's figures over bits per byte, with standard errors."""

from collections.abc import Mapping
from typing import Any

from mdel_assets.tasks.comparison import Column, Comparison
from mdel_assets.tasks.comparison_text import heading

_MAX_PANELS, _PANEL_HEIGHT = 6, 2.8
# Of a name, and of a character in sizes of its font; what of a panel its axes take.
_MAX_NAME, _NAME_WIDTH, _SHARE_OF_PANEL = 20, 0.62, 0.85


def comparison_figure(
    comparison: Comparison, *, across: int = 2, width: float = 7.0, font: int = 8
) -> Any:
    """Return a chart of each task's figures over bits per byte, with standard errors.

    It has ``across`` panels beside each other, and shows the first six tasks.
    """
    from mdel_assets.charts import figure

    columns = list(comparison.columns)[:_MAX_PANELS]
    across = min(across, len(columns))
    down = -(-len(columns) // across)
    height = _PANEL_HEIGHT * font / 8
    drawn = figure(width=width, height=height * down)
    for number, column in enumerate(columns, start=1):
        _draw(drawn.add_subplot(down, across, number), comparison, column, font=font)
    return drawn


def _draw(axes: Any, comparison: Comparison, column: Column, *, font: int) -> None:
    shown = {
        model: (comparison.bits[model], row[column])
        for model, row in comparison.figures.items()
        if column in row and model in comparison.bits
    }
    axes.errorbar(
        [bits for bits, _ in shown.values()],
        [each.value for _, each in shown.values()],
        yerr=[each.error or 0.0 for _, each in shown.values()],
        fmt="o",
        color="#0072b1",
        ecolor="#8a8a8a",
        elinewidth=1,
        markersize=4,
    )
    axes.set_title(heading(comparison, column), fontsize=font, parse_math=False)
    axes.set_xlabel("bits per byte", fontsize=font)
    axes.tick_params(labelsize=font - 1)
    axes.margins(x=0.2, y=0.1)
    axes.grid(alpha=0.3)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    axes.locator_params(axis="x", nbins=5)
    _name_points(axes, {m: (bits, each.value) for m, (bits, each) in shown.items()}, font=font - 1)


def _name_points(axes: Any, points: Mapping[str, tuple[float, float]], *, font: int) -> None:
    """Write a model's name beside its point, if it does not lie on a name that is there already."""
    (left, right), (bottom, top) = axes.get_xlim(), axes.get_ylim()
    figure, place = axes.get_figure(), axes.get_subplotspec()
    down, across = place.get_gridspec().get_geometry()
    width, height = (_SHARE_OF_PANEL * 72 * size for size in figure.get_size_inches())
    taken: list[tuple[float, float, float]] = []
    for model, (x, y) in points.items():
        name = model[:_MAX_NAME]
        at = (x - left) / (right - left) * width / across
        line = (y - bottom) / (top - bottom) * height / down
        end = at + _NAME_WIDTH * font * len(name) + font
        if any(at < e and end > a and abs(line - li) < font for a, e, li in taken):
            continue
        taken.append((at, end, line))
        axes.annotate(
            name,
            (x, y),
            xytext=(3, 3),
            textcoords="offset points",
            fontsize=font,
            parse_math=False,
        )
