"""Charts that pages show inline: small files that are still legible and true in colour."""

import base64
import io
import re

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
    to_svg,
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


def test_an_svg_is_the_same_for_the_same_figure_and_takes_the_colours_of_its_page():
    curve = {"a <b> & $c$": [(0.0, 1.0), (9.0, 2.0)], "d": [(0.0, 2.0), (9.0, 1.0)]}

    def drawn(name):
        shown = line_chart(curve, x_label="step", y_label="loss", title="Loss <i>")
        return to_svg(shown, name=name, title='The "loss" <i>')

    first, other = drawn("one"), drawn("two")
    assert first == drawn("one")
    root, rest = first.split(">", 1)
    assert 'aria-label="The &quot;loss&quot; &lt;i&gt;"' in root
    assert 'viewBox="0 0 432.0 230.4"' in root
    # Of black and white, of dates and of fonts of its own there is nothing left.
    for gone in ("#000000", "#ffffff", "<metadata", "<style", "font:", "DejaVu", "<i>"):
        assert gone not in rest
    assert "stroke: currentColor" in rest
    ids = [set(re.findall(r'id="([^"]+)"', each)) for each in (first, other)]
    assert ids[0]
    assert not ids[0] & ids[1]
    used = set(re.findall(r'(?:url\(|href=")#([^")]+)', first))
    assert used
    assert used <= ids[0]
