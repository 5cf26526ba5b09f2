"""The report in headless Chromium, opened from disk with the network off."""

import contextlib
import shutil

import pytest

from mdel_assets.home import MdelHome
from mdel_assets.reporting.contents import contents_of
from mdel_assets.reporting.page import render
from mdel_assets_tests.browser.web_ui import CHROMIUM
from mdel_assets_tests.reporting.test_report import HOSTILE, hostile_page
from mdel_assets_tests.reporting.wide_page import DOMAINS, MODELS, wide

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        CHROMIUM is None,
        reason="the Debian package chromium is not installed: make test_services",
    ),
]
PAGES = ("pico", "wide", "hostile")
WIDTHS = (390, 1280, 1920)
SCHEMES = ("light", "dark")
# Of each element with text of its own: the text, its contrast with what lies behind it by WCAG 2.2,
# and its size in pixels. Colours are read by painting them.
CONTRASTS = """() => {
  const canvas = Object.assign(document.createElement('canvas'), {width: 1, height: 1});
  const context = canvas.getContext('2d', {willReadFrequently: true});
  const painted = colours => {
    context.clearRect(0, 0, 1, 1);
    for (const colour of colours) { context.fillStyle = colour; context.fillRect(0, 0, 1, 1) }
    return [...context.getImageData(0, 0, 1, 1).data].slice(0, 3);
  };
  const luminance = rgb => rgb.map(v => v / 255)
    .map(v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
    .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
  const found = [];
  for (const element of document.body.querySelectorAll('*')) {
    const own = [...element.childNodes].filter(n => n.nodeType === 3).map(n => n.data).join('');
    if (!own.trim() || !element.checkVisibility() || element.closest('title')) continue;
    const behind = [];
    for (let e = element; e; e = e.parentElement) {
      behind.unshift(getComputedStyle(e).backgroundColor);
    }
    const style = getComputedStyle(element);
    const colour = element.closest('svg') ? style.fill : style.color;
    const [text, page] = [painted([...behind, colour]), painted(behind)].map(luminance);
    const ratio = (Math.max(text, page) + 0.05) / (Math.min(text, page) + 0.05);
    found.push([own.trim().slice(0, 40), ratio, parseFloat(style.fontSize)]);
  }
  return found;
}"""


@pytest.fixture(scope="module")
def pages(finished, tmp_path_factory):
    """The three pages as files: that of the pico line, one of 22 domains, a hostile one."""
    experiment, home, _ = finished
    folder = tmp_path_factory.mktemp("pages")
    own = MdelHome(folder / "home")
    shutil.copytree(home.root, own.root)
    lineage = own.lineage(experiment)
    page = contents_of(lineage, lineage.identity("experiment_report"))
    made = {
        "pico": page,
        "wide": wide(page, folder),
        "hostile": hostile_page((experiment, own), folder),
    }
    for name, one in made.items():
        (folder / f"{name}.html").write_text(render(one), "utf-8")
    return folder


@pytest.fixture(scope="module")
def browser():
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"]
        )
        yield opened
        opened.close()


@contextlib.contextmanager
def opened(browser, path, *, width=1280, scheme="light"):
    """Open a page with all its parts unfolded; it may ask for nothing and complain of nothing."""
    context = browser.new_context(
        viewport={"width": width, "height": 900}, color_scheme=scheme, offline=True
    )
    page, asked, said = context.new_page(), [], []
    page.on("request", lambda request: asked.append(request.url))
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("dialog", lambda dialog: said.append(dialog.message))
    page.goto(path.as_uri())
    page.evaluate("document.querySelectorAll('details').forEach(d => d.open = true)")
    yield page
    context.close()
    assert asked == [path.as_uri()]
    assert said == []


@pytest.mark.parametrize("name", PAGES)
def test_it_opens_without_network_and_fits_every_width(browser, pages, name):
    path = pages / f"{name}.html"
    assert path.stat().st_size < 3_000_000
    for width in WIDTHS:
        with opened(browser, path, width=width) as page:
            assert page.evaluate("document.documentElement.scrollWidth") == width
            # What is wider than the page scrolls in a box of its own, which a keyboard reaches.
            boxes = page.locator(".scroll, pre")
            lost = boxes.evaluate_all(
                "all => all.filter(e => e.scrollWidth > e.clientWidth + 1 "
                "&& !(e.tabIndex === 0 && "
                "getComputedStyle(e).overflowX === 'auto')).length"
            )
            assert lost == 0


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("name", PAGES)
def test_every_text_can_be_told_from_what_is_behind_it(browser, pages, name, scheme):
    with opened(browser, pages / f"{name}.html", scheme=scheme) as page:
        found = page.evaluate(CONTRASTS)
        lightness = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (lightness == "rgb(255, 255, 255)") == (scheme == "light")
    assert len(found) > 300
    assert [each for each in found if each[1] < 4.5] == []


@pytest.mark.parametrize("width", [390, 1280])
def test_texts_are_large_enough_to_be_read(browser, pages, width):
    with opened(browser, pages / "wide.html", width=width) as page:
        small = page.evaluate(CONTRASTS)
        scale = page.locator("svg.chart").evaluate(
            "e => e.getBoundingClientRect().width / e.viewBox.baseVal.width"
        )
        in_charts = page.locator("svg.chart text").evaluate_all(
            "all => all.map(e => parseFloat(getComputedStyle(e).fontSize))"
        )
    assert len(in_charts) > len(DOMAINS)
    assert min(size * scale for size in in_charts) > 8
    assert [each for each in small if each[2] < 10 and each[2] not in in_charts] == []


def test_a_wide_table_keeps_the_names_of_its_rows_in_sight(browser, pages):
    with opened(browser, pages / "wide.html", width=390) as page:
        box = page.locator(".scroll").filter(has=page.locator(".heat")).first
        row = box.locator("tbody tr").nth(3)
        name = row.locator("th")
        assert name.inner_text() == MODELS[3]
        before = name.bounding_box()["x"]
        box.evaluate("e => e.scrollLeft = 600")
        assert name.bounding_box()["x"] == before
        assert row.locator("td").first.bounding_box()["x"] < 0


def test_hostile_names_and_texts_are_shown_as_they_stand(browser, pages):
    with opened(browser, pages / "hostile.html") as page:
        assert page.locator("script, a[href^='javascript']").count() == 0
        assert page.locator(".heat tbody th").first.inner_text() == HOSTILE
        quoted = page.locator("blockquote").first.inner_text()
        assert quoted == f"P{HOSTILE} …"
