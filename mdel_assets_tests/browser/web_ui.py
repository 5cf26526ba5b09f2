"""The web UI as a person meets it: started as ``make ui`` starts it, seen in headless Chromium.

`serve` starts the webserver, the daemon and the code location on 127.0.0.1 and stops them again.
`open_browser` gives a `WebUi` on it, whose methods do what a person does: open a page, click,
read. It remembers the address of everything that the pages asked for.
"""

import contextlib
import dataclasses
import os
import shutil
import signal
import socket
import time
import urllib.request
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import quote, urlsplit

import psutil

from mdel_assets.home import MdelHome
from mdel_assets_tests import warm_python

CHROMIUM = shutil.which("chromium")
GROUPS = ("data", "training", "merging", "evaluation", "publishing")
_START_SECONDS, _STOP_SECONDS, _PAGE_SECONDS, _RUN_SECONDS = 120, 60, 60, 240
_RECT = "e => { const r = e.getBoundingClientRect(); return [r.x, r.y, r.right, r.bottom] }"


@contextlib.contextmanager
def serve(
    home: MdelHome, *, experiment: str, environment: Mapping[str, str] | None = None
) -> Iterator[str]:
    """Run the web UI of ``home`` and yield its address; what it says goes to ``web_ui.log``."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    settings = {
        "MDEL_HOME": str(home.root),
        "MDEL_EXPERIMENT": experiment,
    }
    log = home.root / "web_ui.log"
    with log.open("wb") as output:
        process = warm_python.start(
            [*warm_python.MDEL, "ui", "--port", str(port)],
            env=os.environ | settings | (environment or {}),
            cwd=home.root,
            output=output,
        )
    try:
        address = f"http://127.0.0.1:{port}"
        _wait_for(address, process)
        yield address
    except BaseException as error:
        error.add_note(log.read_text("utf-8", "replace")[-5000:])
        raise
    finally:
        _stop(process)


def _wait_for(address: str, process: warm_python.Process) -> None:
    """Return once the webserver answers."""
    deadline = time.monotonic() + _START_SECONDS
    while process.poll() is None:
        with contextlib.suppress(OSError), urllib.request.urlopen(f"{address}/server_info"):
            return
        if time.monotonic() > deadline:
            raise TimeoutError(f"{address} did not answer within {_START_SECONDS} s")
        time.sleep(0.2)
    raise RuntimeError(f"the web UI ended with {process.returncode}")


def _stop(process: warm_python.Process) -> None:
    """End the web UI as Ctrl-C does, and whatever of it is then still there."""
    family = warm_python.family(process.pid)
    process.send_signal(signal.SIGINT)
    with contextlib.suppress(TimeoutError):
        process.wait(_STOP_SECONDS)
    for one in family:
        with contextlib.suppress(psutil.NoSuchProcess):
            one.kill()
    process.wait()


@dataclasses.dataclass(frozen=True)
class WebUi:
    """A browser page on the web UI; ``requests`` holds the address of everything it asked for."""

    address: str
    page: Any
    requests: list[str]

    def open(self, path: str, *, wait_for: str) -> None:
        """Go to ``path`` and return once the text ``wait_for`` is shown."""
        self.page.goto(f"{self.address}{path}")
        self.page.get_by_text(wait_for, exact=True).first.wait_for()

    def open_graph(self, *, expanded: bool = False) -> None:
        """Show the asset graph: its groups closed, or all open in a window that holds them."""
        if not expanded:
            self.open("/asset-groups", wait_for="data")
            self.page.locator(_node("data")).first.wait_for()
            return
        # What lies outside of the window is not drawn.
        self.page.set_viewport_size({"width": 8000, "height": 8000})
        groups = quote(",".join(f"global@global:{group}" for group in GROUPS), safe="")
        self.open(f"/asset-groups?expanded={groups}", wait_for="data")
        self.page.locator(_node("perplexity_matrix")).first.wait_for()

    def click_group(self, group: str) -> None:
        """Open or close a group of the graph."""
        self.page.locator(_node(group)).first.click()

    def place_of(self, node: str) -> tuple[float, float, float, float]:
        """Return left, top, right and bottom of a node of the graph, an asset or a group."""
        left, top, right, bottom = self.page.locator(_node(node)).first.evaluate(_RECT)
        return left, top, right, bottom

    def graph_edges(self) -> tuple[float, float, float, float]:
        """Return left, top, right and bottom of all that the graph shows."""
        places = self.page.locator("svg foreignObject").evaluate_all(f"all => all.map({_RECT})")
        lefts, tops, rights, bottoms = zip(*places, strict=True)
        return min(lefts), min(tops), max(rights), max(bottoms)

    def materialize(self, asset: str, partition: str) -> str:
        """Make one partition by clicking, and return the state that its run ends in."""
        page = self.page
        self.open(f"/assets/{asset}", wait_for="Materialize…")
        page.get_by_role("button", name="Materialize…").click()
        page.get_by_text("Select a partition or create one").click()
        page.get_by_placeholder("Filter partitions").fill(partition)
        page.get_by_role("menuitem").filter(has_text=partition).last.click()
        page.keyboard.press("Escape")
        page.get_by_role("button", name="Launch 1 run").click()
        page.get_by_role("link", name="View", exact=True).click()
        ended = page.get_by_text("Success", exact=True).or_(page.get_by_text("Failure", exact=True))
        ended.first.wait_for(timeout=1000 * _RUN_SECONDS)
        return str(ended.first.text_content())

    def show_entry(self, name: str) -> None:
        """Click on what the metadata entry ``name`` of the page offers to show."""
        row = self.page.get_by_role("row").filter(has=self.page.get_by_text(name, exact=True))
        row.get_by_text("[Show Markdown]").first.click()

    def entry(self, name: str) -> str:
        """Return the text of the metadata entry ``name`` of the page."""
        row = self.page.get_by_role("row").filter(has=self.page.get_by_text(name, exact=True))
        return str(row.first.inner_text())

    def foreign_requests(self) -> list[str]:
        """Return what was asked of another host than 127.0.0.1."""
        split = [(urlsplit(address), address) for address in self.requests]
        return [
            address
            for parts, address in split
            if parts.scheme not in ("data", "blob", "about") and parts.hostname != "127.0.0.1"
        ]


def _node(name: str) -> str:
    return f'svg foreignObject:has([data-tooltip="{name}"])'


@contextlib.contextmanager
def open_browser(address: str, *, width: int = 1600, height: int = 1000) -> Iterator[WebUi]:
    """Start Chromium with a fresh profile, a page of that size, and no request of its own."""
    from playwright.sync_api import sync_playwright

    requests: list[str] = []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"]
        )
        context = browser.new_context(viewport={"width": width, "height": height})
        context.set_default_timeout(1000 * _PAGE_SECONDS)
        context.on("request", lambda request: requests.append(request.url))
        page = context.new_page()
        page.on("websocket", lambda socket: requests.append(socket.url))
        yield WebUi(address, page, requests)
        browser.close()
