"""Charts that pages show inline: small files that are still legible and true in colour."""

import base64
import io

import numpy as np
import pytest
from PIL import Image

from mdel_assets.charts import (
    MAX_INLINE_BYTES,
    MAX_INLINE_WIDTH,
    end_of_scale,
    figure,
    inline_image,
    line_chart,
    to_png,
    with_palette,
)


def heatmap(rows):
    """Return a figure like the perplexity matrix: a colour and a number in every cell."""
    drawn = figure(width=8.0, height=2.0 + 0.36 * rows)
    axes = drawn.add_subplot()
    values = np.random.default_rng(0).normal(size=(rows, 5))
    drawn.colorbar(axes.imshow(values, cmap="RdBu_r", aspect="auto"))
    for row, column in np.ndindex(values.shape):
        axes.text(column, row, f"{values[row, column]:.3f}", ha="center", va="center", fontsize=8)
    return drawn


def pixels(png):
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGB")).astype(int)


def test_a_palette_shrinks_a_picture_and_hardly_changes_a_colour():
    png = to_png(heatmap(20), dpi=110)
    reduced = with_palette(png)
    assert len(reduced) < len(png) / 2
    assert np.abs(pixels(reduced) - pixels(png)).max() <= 16


def test_a_heatmap_of_twenty_models_is_shown_at_a_resolution_that_can_be_read():
    head, encoded = inline_image(heatmap(20), title="matrix").split("base64,")
    assert head == "![matrix](data:image/png;"
    png = base64.b64decode(encoded.removesuffix(")"))
    assert len(png) < MAX_INLINE_BYTES
    assert Image.open(io.BytesIO(png)).width >= 700


@pytest.mark.in_use
@pytest.mark.parametrize("width", [4.0, 9.0, 30.0])
def test_no_inline_picture_is_wider_than_what_a_page_shows(width):
    drawn = figure(width=width, height=2.0)
    drawn.add_subplot().plot([0, 1], [0, 1])
    encoded = inline_image(drawn, title="x").split("base64,")[1].removesuffix(")")
    assert Image.open(io.BytesIO(base64.b64decode(encoded))).width <= MAX_INLINE_WIDTH


@pytest.mark.in_use
def test_the_legend_of_curves_lies_on_no_curve():
    curves = {name: [(0, 0.0), (1, 1.0), (2, 0.0)] for name in ("training", "validation")}
    drawn = line_chart(curves, x_label="x", y_label="y", title="t")
    to_png(drawn)
    (legend,) = drawn.legends
    assert [text.get_text() for text in legend.get_texts()] == list(curves)
    assert legend.get_window_extent().y1 <= drawn.axes[0].get_window_extent().y0


@pytest.mark.in_use
def test_one_far_value_does_not_stretch_a_scale():
    assert end_of_scale(np.array([1.0, 2.0, 2.0, 2.0])) == 2.0
    # Three quarters stay below 2: the scale ends at two and a half times that.
    assert end_of_scale(np.array([1.0, 2.0, 2.0, 2.0, 100.0])) == 5.0
    assert end_of_scale(np.array([0.0, np.nan, -1.0])) == 0.0
