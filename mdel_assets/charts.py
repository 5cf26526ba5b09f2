"""Charts as small PNG files or as SVG, drawn without a display and without global state."""

import base64
import io
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

# The width that the web UI's dialog shows uncut: it is 840 pixels wide in any window.
MAX_INLINE_WIDTH = 780
MAX_INLINE_BYTES = 50_000
_DPI, _MIN_DPI = 110.0, 50.0
# A picture of so much less resolution than would just fit does fit, as a rule.
_MARGIN = 0.93
_ROOM = 2.5
_POINTS_PER_INCH = 72


def figure(*, width: float, height: float) -> Any:
    """Return an empty matplotlib figure of that many inches."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def to_png(drawn: Any, *, dpi: float = 130) -> bytes:
    """Return a figure as PNG bytes, the same for the same figure."""
    # Laid out here, once: left to `savefig`, the layout draws every artist before each picture.
    drawn.set_dpi(dpi)
    if engine := drawn.get_layout_engine():
        engine.execute(drawn)
        drawn.set_layout_engine(None)
    buffer = io.BytesIO()
    drawn.savefig(buffer, format="png", dpi=dpi, metadata={"Software": None})
    return buffer.getvalue()


def to_svg(drawn: Any, *, name: str, title: str) -> str:
    """Return a figure as an SVG element for a page, the same for the same figure.

    Black becomes the colour of the page's text, and what was white shows the page. Text stays text,
    in the page's font. ``name`` is what the element's ids begin with; ``title`` says what it shows.
    """
    import html

    import matplotlib as mpl

    for legend in drawn.legends:
        legend.set_frame_on(False)
    buffer = io.StringIO()
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": name}):
        drawn.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    width, height = (round(_POINTS_PER_INCH * size, 1) for size in drawn.get_size_inches())
    inside = buffer.getvalue().partition("<svg")[2].partition(">")[2].rpartition("</svg>")[0]
    inside = re.sub(r"<metadata>.*?</metadata>|<style .*?</style>", "", inside, flags=re.DOTALL)
    inside = re.sub(r'\bid="', f'id="{name}-', inside)
    inside = re.sub(r'href="#|url\(#', lambda found: f"{found[0]}{name}-", inside)
    inside = re.sub(r"font-family: [^;\"]*;? ?", "", inside)
    inside = inside.replace("stroke: #000000", "stroke: currentColor")
    told = html.escape(title)
    return (
        f'<svg class="chart" viewBox="0 0 {width} {height}" fill="currentColor" role="img" '
        f'aria-label="{told}"><title>{told}</title>{inside}</svg>'
    )


def end_of_scale(sizes: NDArray[Any]) -> float:
    """Return the end of a scale for ``sizes`` with which a few large ones do not shrink the rest.

    It is the largest size, or at most ``_ROOM`` times their third quartile. Zeros and NaN do not
    count; without any size, it is 0.
    """
    counted = sizes[sizes > 0]
    if not len(counted):
        return 0.0
    return min(float(counted.max()), _ROOM * float(np.percentile(counted, 75)))


def with_palette(png: bytes) -> bytes:
    """Return the picture in 256 similar colours, which takes a third of the bytes."""
    from PIL import Image

    picture = Image.open(io.BytesIO(png)).convert("RGB")
    reduced = picture.quantize(256, method=Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE)
    buffer = io.BytesIO()
    reduced.save(buffer, format="png", optimize=True)
    return buffer.getvalue()


def inline_image(drawn: Any, *, title: str) -> str:
    """Return Markdown that shows the figure inline, as sharp as fits into a page and 50 kB."""
    dpi = min(_DPI, MAX_INLINE_WIDTH / drawn.get_figwidth())
    png = with_palette(to_png(drawn, dpi=dpi))
    while len(png) >= MAX_INLINE_BYTES and dpi > _MIN_DPI:
        dpi = max(_MIN_DPI, dpi * _MARGIN * math.sqrt(MAX_INLINE_BYTES / len(png)))
        png = with_palette(to_png(drawn, dpi=dpi))
    return f"![{title}](data:image/png;base64,{base64.b64encode(png).decode()})"


def line_chart(
    curves: Mapping[str, Sequence[tuple[float, float]]], *, x_label: str, y_label: str, title: str
) -> Any:
    """Return a figure with one line per entry of ``curves``, each a sequence of (x, y)."""
    drawn = figure(width=6.0, height=3.2)
    axes = drawn.add_subplot()
    for name, points in curves.items():
        axes.plot(
            [x for x, _ in points],
            [y for _, y in points],
            label=name,
            marker="o" if len(points) < 3 else None,
        )
    axes.set(xlabel=x_label, ylabel=y_label, title=title)
    axes.grid(alpha=0.3)
    if len(curves) > 1:
        # Outside the axes: inside, it would eventually cover a curve.
        drawn.legend(loc="outside lower center", ncols=3, fontsize=9)
    return drawn


def bar_chart(values: Mapping[str, float], *, x_label: str, title: str) -> Any:
    """Return a figure with one horizontal bar per entry, the first on top."""
    drawn = figure(width=6.0, height=0.9 + 0.3 * max(1, len(values)))
    axes = drawn.add_subplot()
    bars = axes.barh(list(values), list(values.values()))
    axes.bar_label(bars, fmt="{:,.4g}", padding=3)
    axes.invert_yaxis()
    axes.margins(x=0.15)
    axes.set(xlabel=x_label, title=title)
    return drawn


def histogram(values: NDArray[Any], *, x_label: str, y_label: str, title: str) -> Any:
    """Return a figure of how many ``values`` fall between one power of two and the next."""
    drawn = figure(width=6.0, height=2.6)
    axes = drawn.add_subplot()
    highest = math.ceil(math.log2(int(values.max()) + 1)) if len(values) else 1
    lowest = math.floor(math.log2(int(values.min()) + 1)) if len(values) else 0
    axes.hist(values, bins=[2.0**n for n in range(lowest, max(highest, lowest + 1) + 1)])
    axes.set_xscale("log", base=2)
    axes.set(xlabel=x_label, ylabel=y_label, title=title)
    axes.grid(alpha=0.3, axis="y")
    return drawn
