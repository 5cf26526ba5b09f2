"""Charts that pages show inline: small files that are still legible and true in colour."""

import base64
import io

import numpy as np
from PIL import Image

from mdel_assets.charts import MAX_INLINE_BYTES, figure, inline_image, to_png, with_palette


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
