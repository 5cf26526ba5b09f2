"""The README's pictures of the web UI: ``make screenshots`` takes them of a finished line.

``MDEL_HOME`` names its home, ``MDEL_EXPERIMENT`` its experiment, as everywhere; ``make demo`` makes
both. Nothing of it is made anew. The pictures go to ``docs/images/``.
"""

import io
import sys
from collections.abc import Iterator
from pathlib import Path

from mdel_assets.charts import with_palette
from mdel_assets.experiment.loading import load_experiment
from mdel_assets.home import MdelHome, experiment_name
from mdel_assets_tests.browser.web_ui import CHROMIUM, WebUi, open_browser, serve

IMAGES = Path(__file__).parents[2] / "docs" / "images"
MAX_BYTES = 400_000
_WIDTH, _MARGIN = 1900, 20


def take_screenshots(home: MdelHome, *, experiment: str, folder: Path) -> Iterator[Path]:
    """Write ``graph.png`` and ``matrix_page.png`` into ``folder``, yielding each."""
    with serve(home, experiment=experiment) as address, open_browser(address) as ui:
        for name, take in (("graph.png", graph), ("matrix_page.png", matrix_page)):
            path = folder / name
            path.write_bytes(small(take(ui)))
            if path.stat().st_size > MAX_BYTES:
                raise ValueError(f"{path} has more than {MAX_BYTES} bytes")
            yield path


def graph(ui: WebUi) -> bytes:
    """Return the asset graph with all groups open, and nothing around it."""
    ui.open_graph(expanded=True)
    ui.page.get_by_text("Loading", exact=False).first.wait_for(state="hidden")
    ui.page.wait_for_load_state("networkidle")
    left, top, right, bottom = ui.graph_edges()
    clip = {
        "x": left - _MARGIN,
        "y": top - _MARGIN,
        "width": right - left + 2 * _MARGIN,
        "height": bottom - top + 2 * _MARGIN,
    }
    return bytes(ui.page.screenshot(clip=clip))


def matrix_page(ui: WebUi) -> bytes:
    """Return the page of the perplexity matrix with its heatmap open."""
    ui.page.set_viewport_size({"width": 1600, "height": 1250})
    ui.open("/assets/perplexity_matrix", wait_for="heatmap")
    ui.show_entry("heatmap")
    ui.page.get_by_role("dialog").get_by_role("img", name="perplexity matrix").wait_for()
    ui.page.wait_for_load_state("networkidle")
    return bytes(ui.page.screenshot(animations="disabled"))


def small(png: bytes) -> bytes:
    """Return a picture at most 1900 pixels wide; in 256 colours where all would be too many."""
    from PIL import Image

    picture = Image.open(io.BytesIO(png)).convert("RGB")
    if picture.width > _WIDTH:
        height = round(picture.height * _WIDTH / picture.width)
        picture = picture.resize((_WIDTH, height), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    picture.save(buffer, format="png", optimize=True)
    return buffer.getvalue() if buffer.tell() <= MAX_BYTES else with_palette(buffer.getvalue())


def main() -> int:
    """Take all pictures; say what is missing where they cannot be taken."""
    if CHROMIUM is None:
        sys.stderr.write("chromium is missing: make test_services installs it\n")
        return 1
    home, experiment = MdelHome.from_environment(), experiment_name()
    if not home.lineage(load_experiment(experiment)).artifact("perplexity_matrix").read_record():
        sys.stderr.write(f"{home.root} holds no finished line of '{experiment}': make demo\n")
        return 1
    for path in take_screenshots(home, experiment=experiment, folder=IMAGES):
        sys.stdout.write(f"{path} ({path.stat().st_size / 1000:.0f} kB)\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
