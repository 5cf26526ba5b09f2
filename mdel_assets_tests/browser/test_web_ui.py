"""What a person sees and does in the web UI, in headless Chromium against the real webserver."""

import functools
import json
import shutil
import socketserver
import threading
import urllib.error
import urllib.request
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import quote

import dagster as dg
import pytest
import yaml
from PIL import Image

from mdel_assets.defs.graph import build_definitions
from mdel_assets.defs.instance import open_instance
from mdel_assets.home import MdelHome
from mdel_assets.kinds import KINDS
from mdel_assets_tests.browser import screenshots
from mdel_assets_tests.browser.web_ui import CHROMIUM, open_browser, serve

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        CHROMIUM is None,
        reason="the Debian package chromium is not installed: make test_services",
    ),
]
# Seen again in the copied home, so that its instance knows of them. The expert of FreeLaw is not.
SEEN = [
    ("raw_pile_shard", "00"),
    ("shard_documents", "00"),
    ("domain_dataset", "arxiv"),
    ("seed_model", None),
    ("expert_model", "github"),
    ("expert_model", "arxiv"),
    ("merged_model", "pair"),
    ("token_scores", "seed"),
    ("perplexity_report", "seed"),
    ("perplexity_matrix", None),
]


class Outside(socketserver.ThreadingTCPServer):
    """The only way out that the web UI's processes are told of; notes who asks to go there."""

    daemon_threads = True

    def __init__(self):
        self.asked = []
        super().__init__(("127.0.0.1", 0), Asked)


class Asked(socketserver.StreamRequestHandler):
    def handle(self):
        self.server.asked.append(self.rfile.readline().decode())


@pytest.fixture(scope="module")
def outside():
    with Outside() as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


@pytest.fixture(scope="module")
def line(finished, tmp_path_factory):
    """A home with a finished line but for one expert: (home, experiment file, lost weights)."""
    experiment, done, _ = finished
    home = MdelHome(tmp_path_factory.mktemp("seen") / "home")
    shutil.copytree(done.root, home.root)
    job = build_definitions(experiment, home).resolve_implicit_global_asset_job_def()
    with open_instance(home, "pico") as instance:
        for asset, key in SEEN:
            selection = [dg.AssetKey(asset)]
            job.execute_in_process(instance=instance, asset_selection=selection, partition_key=key)
    expert = home.root / "pico" / "models" / "experts" / "freelaw"
    weights = (expert / "model.safetensors").read_bytes()
    shutil.rmtree(expert)
    path = home.root / "pico.yaml"
    path.write_text(yaml.safe_dump(json.loads(experiment.model_dump_json(exclude_none=True))))
    return home, path, weights


@pytest.fixture(scope="module")
def address(line, outside):
    """The web UI's address; whatever its processes ask of another machine goes to `outside`."""
    home, experiment, _ = line
    proxy = f"http://127.0.0.1:{outside.server_address[1]}"
    proxies = {f"{scheme}_proxy": proxy for scheme in ("http", "https")}
    direct = {"no_proxy": "127.0.0.1,localhost"}
    environment = proxies | direct
    environment |= {name.upper(): value for name, value in environment.items()}
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("DAGSTER_DISABLE_TELEMETRY", raising=False)
        with serve(home, experiment=str(experiment), environment=environment) as found:
            yield found


@pytest.fixture
def ui(address, outside, line):
    """A fresh browser on the web UI; no page of the test may reach out, nor may the server."""
    with open_browser(address) as opened:
        yield opened
    assert len(opened.requests) > 10
    assert opened.foreign_requests() == []
    assert outside.asked == []
    # Dagster keeps here whom it has counted, what it is to send, and who was asked to sign up.
    kept = (
        line[0].dagster_home("pico").rglob(f"{name}/*") for name in (".telemetry", ".logs_queue")
    )
    assert [path for found in kept for path in found] == []
    assert not (line[0].dagster_home("pico") / ".nux").exists()


def test_the_graph_shows_the_line_from_left_to_right_and_asks_for_no_sign_up(ui):
    ui.open_graph()
    lefts = [ui.place_of(group)[0] for group in ("data", "training", "merging", "evaluation")]
    assert lefts == sorted(set(lefts))
    assert ui.place_of("publishing")[0] > ui.place_of("merging")[0]
    ui.click_group("training")
    ui.page.locator('[data-tooltip="expert_model"]').first.wait_for()
    ui.open_graph(expanded=True)
    for left, right in (
        ("raw_pile_shard", "shard_documents"),
        ("shard_documents", "domain_dataset"),
        ("domain_dataset", "seed_model"),
        ("seed_model", "expert_model"),
        ("expert_model", "merged_model"),
        ("merged_model", "token_scores"),
        ("token_scores", "perplexity_report"),
        ("perplexity_report", "perplexity_matrix"),
        ("merged_model", "hub_merged_model"),
    ):
        assert ui.place_of(left)[2] < ui.place_of(right)[0], (left, right)
    answer = ui.page.request.post(f"{ui.address}/graphql", data={"query": "{shouldShowNux}"})
    assert answer.json() == {"data": {"shouldShowNux": False}}
    assert ui.page.get_by_role("dialog").count() == 0


@pytest.mark.in_use
def test_the_first_page_shows_what_commands_ran_under_the_experiments_name(ui):
    ui.open("/", wait_for="pico")
    assert "timeline" in ui.page.url
    ui.page.get_by_text("Jobless asset materializations").first.wait_for()
    ui.open("/locations/pico/jobs/bring_line_up_to_date/playground", wait_for="Launch Run")


def test_one_partition_is_made_by_clicking_and_its_page_shows_it(ui, line):
    home, _, weights = line
    expert = home.root / "pico" / "models" / "experts" / "freelaw"
    assert not expert.exists()
    assert ui.materialize("expert_model", "freelaw") == "Success"
    assert (expert / "model.safetensors").read_bytes() == weights
    ui.open("/assets/expert_model?view=partitions&partition=freelaw", wait_for="Materialized")
    for entry in ("path", "fingerprint", "loss_curve", "validation_losses", "tokens_per_second"):
        ui.page.get_by_text(entry, exact=True).first.wait_for()
    assert str(expert) in ui.entry("path")
    ui.open("/assets/expert_model?view=checks", wait_for="frozen_weights_unchanged")
    ui.page.get_by_text("equals the seed's to the bit").first.wait_for()
    ui.page.get_by_text("Succeeded").first.wait_for()


def test_the_matrix_page_shows_the_heatmap(ui):
    ui.open("/assets/perplexity_matrix", wait_for="heatmap")
    ui.show_entry("heatmap")
    picture = ui.page.get_by_role("dialog").get_by_role("img", name="perplexity matrix")
    picture.wait_for()
    width, height, is_shown = picture.evaluate(
        "image => image.decode().then(() => "
        "[image.naturalWidth, image.naturalHeight, image.getBoundingClientRect().height > 100])"
    )
    assert width > 400
    assert height > 300
    assert is_shown


@pytest.mark.in_use
@pytest.mark.parametrize("width", [1280, 1600])
def test_no_picture_is_cut_in_the_dialog_that_shows_it(ui, width):
    ui.page.set_viewport_size({"width": width, "height": 800})
    ui.open("/assets/perplexity_matrix", wait_for="heatmap")
    dialog = ui.page.get_by_role("dialog")
    for entry, name in (("heatmap", "perplexity matrix"), ("changes", "change from the seed")):
        ui.show_entry(entry)
        picture = dialog.get_by_role("img", name=name)
        picture.wait_for()
        right = "e => e.getBoundingClientRect().right"
        assert picture.evaluate(right) < dialog.locator("div").first.evaluate(right)
        # Nothing around the picture has to be scrolled sideways.
        hidden = "e => { let p = e; do { p = p.parentElement } while (p.scrollWidth <= "
        hidden += "p.clientWidth && p !== document.body); return p === document.body }"
        assert picture.evaluate(hidden)
        dialog.get_by_role("button", name="Close", exact=True).click()
        dialog.wait_for(state="hidden")


@pytest.mark.parametrize("take", [screenshots.graph, screenshots.matrix_page])
def test_the_pictures_of_the_readme_are_taken_by_their_script(ui, take, tmp_path):
    path = tmp_path / f"{take.__name__}.png"
    path.write_bytes(screenshots.small(take(ui)))
    assert path.stat().st_size <= screenshots.MAX_BYTES
    with Image.open(path) as picture:
        assert 1200 < picture.width <= 1900
        assert picture.height > 300
        # A page that is still empty has a handful of colours.
        assert len(picture.convert("RGB").getcolors(2**24)) > 100


def test_an_asset_page_tells_what_it_is_and_what_it_holds(ui, line):
    home, _, _ = line
    ui.open("/assets/domain_dataset", wait_for="Compute details")
    page = ui.page
    page.get_by_text("Compute details").click()
    page.get_by_text("One domain's dataset: all its documents").wait_for()
    page.get_by_text("Code version", exact=True).wait_for()
    shown = page.locator("body").inner_text()
    for heading, value in (
        ("Group", "data"),
        ("Owners", "mdel"),
        ("Row count", str(row_count(home))),
        ("Code version", {kind.name: kind.code_version for kind in KINDS}["domain_dataset"]),
        ("Pool", "cpu"),
    ):
        assert f"\n{heading}\n" in shown, heading
        after = shown.split(f"\n{heading}\n", 1)[1].split()
        assert after[0].replace(",", "") == value, (heading, after[:3])
    for kind in ("Hugging Face", "Parquet"):
        assert kind in shown
    for column, description in (
        ("document_id", "A hash of the text; duplicates have the same."),
        ("num_bytes", "Length of the text in UTF-8."),
    ):
        assert description in ui.entry(column)
    assert str(home.root / "pico" / "datasets" / "arxiv") in ui.entry("path")
    for neighbour in ("shard_documents", "expert_model"):
        page.locator(f'a[href="/assets/{neighbour}"]').first.wait_for(state="attached")


def row_count(home):
    import pyarrow.parquet as pq

    files = (home.root / "pico" / "datasets" / "arxiv").glob("*.parquet")
    return sum(pq.read_metadata(file).num_rows for file in files)


def test_no_page_asks_another_machine_for_anything(ui):
    for path, text in (
        ("/overview", "Timeline"),
        ("/runs", "Runs"),
        ("/assets", "perplexity_matrix"),
        ("/automation", "Automation"),
        ("/deployment", "Deployment"),
    ):
        ui.open(path, wait_for=text)
    assert ui.foreign_requests() == []


ATTACK = """
<img src="{address}/graphql?query={image}">
<form method="post" enctype="text/plain" action="{address}/graphql" target="frame">
<input name='{{"query": "{form}", "x": "' value='"}}'></form><iframe name="frame"></iframe>
<script>
const query = {fetch};
const plain = {{method: "POST", mode: "no-cors", body: JSON.stringify({{query}})}};
const typed = {{...plain, mode: "cors", headers: {{"content-type": "application/json"}}}};
const socket = new WebSocket("{address}/graphql".replace("http", "ws"), "graphql-ws");
const closed = new Promise(done => socket.onclose = done);
document.forms[0].submit();
Promise.allSettled([fetch("{address}/graphql", plain), fetch("{address}/graphql", typed), closed])
  .then(() => setTimeout(() => document.title = "over", 1000));
</script>
"""


def limits_set(address):
    """Return the keys of all concurrency limits that the instance has."""
    found = post(address, "{instance {concurrencyLimits {concurrencyKey}}}")
    return {limit["concurrencyKey"] for limit in found["data"]["instance"]["concurrencyLimits"]}


def post(address, query, **headers):
    request = urllib.request.Request(
        f"{address}/graphql",
        data=json.dumps({"query": query}).encode(),
        headers={"content-type": "application/json"} | headers,
    )
    with urllib.request.urlopen(request) as answer:
        return json.load(answer)


def limiting(key):
    return f'mutation {{setConcurrencyLimit(concurrencyKey: "{key}", limit: 7)}}'


def test_a_page_of_another_origin_changes_nothing(address, line, tmp_path):
    log = line[0].root / "web_ui.log"
    attack = ATTACK.format(
        address=address,
        image=quote(limiting("evil-image")),
        form=json.dumps(limiting("evil-form"))[1:-1],
        fetch=json.dumps(limiting("evil-fetch")),
    )
    (tmp_path / "index.html").write_text(attack)
    handler = functools.partial(SimpleHTTPRequestHandler, directory=str(tmp_path))
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        for host in ("127.0.0.1", "localhost"):
            with open_browser(address) as hostile:
                hostile.page.goto(f"http://{host}:{server.server_address[1]}/index.html")
                hostile.page.wait_for_function("document.title == 'over'")
                assert sum(url.startswith(f"{address}/graphql") for url in hostile.requests) >= 4
    finally:
        server.shutdown()
        server.server_close()
    # As DNS rebinding has it: the page's own name points to this machine.
    for headers in ({"host": "evil.example"}, {"origin": "http://evil.example"}):
        with pytest.raises(urllib.error.HTTPError, match="403"):
            post(address, limiting("evil-name"), **headers)
    assert post(address, limiting("honest"))["data"]
    assert {key for key in limits_set(address) if "evil" in key} == set()
    assert "honest" in limits_set(address)
    assert log.read_text().count("refused ") >= 10
