"""The report: what it says, what it is made from, and that nothing in it is more than text."""

import dataclasses
import itertools
import json
import math
import re
import shutil

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from mdel_assets.cli.matrix import print_matrix
from mdel_assets.evaluation.outcomes import read_outcome
from mdel_assets.evaluation.steps import read_matrix
from mdel_assets.experiment.loading import bundled_experiments, load_experiment, parse_experiment
from mdel_assets.experiment.publishing import Hub
from mdel_assets.home import MdelHome
from mdel_assets.line.kind import Input
from mdel_assets.line.making import make_all, make_one
from mdel_assets.maintenance.forgetting import plan_forgetting
from mdel_assets.reporting.bars import Measured, bars_of
from mdel_assets.reporting.contents import contents_of
from mdel_assets.reporting.foretold import foretold_of
from mdel_assets.reporting.made_of import records_behind
from mdel_assets.reporting.page import render, visible
from mdel_assets.reporting.settings import as_yaml, shown_settings
from mdel_assets.reporting.texts import texts_of
from mdel_assets.reporting.together import AVERAGES_NAME, together_of
from mdel_assets.reporting.trainings import _apart, curves_svg
from mdel_assets.scoring.estimates import Estimate
from mdel_assets_tests.conftest import pico_experiment
from mdel_assets_tests.reporting.reading import Read

HOSTILE = "<script>alert(1)</script> **bold** [x](javascript:alert(2)) `code` $x^2$ & \"quoted'"
RIGHT_TO_LEFT = "\u05e9\u05dc\u05d5\u05dd \u202e reversed"
MAX_BYTES = 3_000_000


@pytest.fixture(scope="module")
def place(finished, tmp_path_factory):
    """A copy of the finished line that these tests may change: (experiment, home)."""
    experiment, home, _ = finished
    own = MdelHome(tmp_path_factory.mktemp("reported") / "home")
    shutil.copytree(home.root, own.root)
    return experiment, own


@pytest.fixture(scope="module")
def lineage(place):
    return place[1].lineage(place[0])


def report_of(lineage):
    return (lineage.folder("experiment_report") / "report.html").read_text("utf-8")


@pytest.fixture(scope="module")
def read(lineage):
    return Read(report_of(lineage))


def test_the_line_makes_it_and_a_run_and_the_matrix_name_it(finished, lineage, capsys):
    made = [(o.kind, o.state) for o in finished[2]]
    assert made[-1] == ("experiment_report", "made")
    path = lineage.root / "reports" / "report.html"
    assert 20_000 < path.stat().st_size < MAX_BYTES
    print_matrix(lineage)
    assert f"  {path}     everything on one page: open it in a browser\n" in capsys.readouterr().out


def test_the_page_is_whole_and_asks_for_nothing(read):
    assert read.misnested == []
    tags = {tag for tag, _ in read.elements}
    assert not tags & {
        "script",
        "link",
        "img",
        "iframe",
        "object",
        "embed",
        "form",
        "base",
        "image",
    }
    ids = [attributes["id"] for _, attributes in read.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    for tag, attributes in read.elements:
        for name, value in attributes.items():
            assert not name.startswith("on"), (tag, name)
            if name.removeprefix("xlink:") in ("href", "src"):
                assert value.startswith("#"), (tag, value)
                assert value.removeprefix("#") in ids
            for link in re.findall(r"url\((.)([^)]*)\)", value or ""):
                assert link[0] == "#"
                assert link[1] in ids
    policy = dict(next(a for t, a in read.elements if "http-equiv" in a))["content"]
    assert "default-src 'none'" in policy


def test_headings_go_down_one_level_at_a_time_and_every_picture_has_a_title(read):
    levels = [int(tag[1]) for tag, _ in read.elements if re.fullmatch(r"h[1-6]", tag)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after <= before + 1 for before, after in itertools.pairwise(levels))
    pictures = [attributes for tag, attributes in read.elements if tag == "svg"]
    assert any(each.get("role") == "img" for each in pictures)
    for each in pictures:
        assert each.get("aria-hidden") == "true" or each["aria-label"]


def test_the_table_holds_the_figures_of_the_reports(read, lineage):
    folder = lineage.folder("perplexity_matrix") / "perplexity"
    split = lineage.experiment.evaluation.splits[0]

    def bits(model):
        lines = (folder / f"{model}.jsonl").read_text().splitlines()
        rows = [json.loads(line) for line in lines]
        return {row["dataset"]: row["bits_per_byte"] for row in rows if row["split"] == split}

    seed, heat = bits("seed"), f"Bits per byte on {split}"
    for model in ("expert-github", "dense", "merged-pair"):
        own, shown = bits(model), read.row(heat, model)
        for dataset, cell in zip(("github", "arxiv", "freelaw"), shown[1:], strict=False):
            change = f"{own[dataset] - seed[dataset]:+.3f}".replace("-", "−")
            assert cell.removesuffix(" •") == f"{own[dataset]:.3f}{change}", (model, dataset)
    assert read.row(heat, "seed")[1] == f"{seed['github']:.3f}"


def test_it_tells_of_data_losses_texts_costs_and_provenance(read, lineage):
    train = lineage.artifact("domain_dataset", "arxiv").require().counts["train"]
    shown = read.row("Data by domain", "arxivArXiv")[1]
    assert shown.startswith(f"{train['num_documents']:,}")
    details = lineage.artifact("expert_model", "arxiv").require().details
    losses = [details[f"losses_{when}"]["validation_domain"] for when in ("before", "after")]
    shown = read.row("Losses before and after training", "arxiv")[3:5]
    assert shown == [f"{loss:.3f}" for loss in losses]
    # Three experts of 2,048 tokens each, six operations for each token and parameter.
    seed = lineage.artifact("seed_model").require()
    parameters = seed.details["num_parameters"]
    digits, exponent = f"{6 * 3 * 2048 * parameters:.1e}".split("e+0")
    told = f"{digits} × 10{'⁰¹²³⁴⁵⁶⁷⁸⁹'[int(exponent)]}"
    assert read.row("Costs", "expert model")[1:4] == ["3", "6,144", told]
    assert read.row("Fingerprints", "seed_model") == ["seed_model", seed.fingerprint]
    samples = lineage.folder("sample_texts", "expert-github") / "samples.jsonl"
    written = [json.loads(line) for line in samples.read_text().splitlines()]
    (own,) = [each for each in written if each["domain"] == "github"]
    assert own["prompt"].strip() in read.text
    assert visible(own["continuation"].strip()) in read.text
    assert "no training document of: enron" in read.text


def test_files_that_are_shared_count_once(read, lineage):
    """Experts keep the seed's tokenizer as a link."""
    records = [lineage.artifact("seed_model").require()]
    records += [lineage.artifact("expert_model", d).require() for d in lineage.present_domains()]
    seed = {file["xxh3"] for file in records[0].files.values()}
    own = {f["xxh3"]: f["size_bytes"] for r in records[1:] for f in r.files.values()}
    size = sum(size for digest, size in own.items() if digest not in seed)
    assert any(digest in seed for digest in own)
    assert read.row("Costs", "expert model")[4] == f"{size / 1000:.3g} kB"


def test_the_same_inputs_give_the_same_bytes_and_no_place_or_time(place, lineage, tmp_path):
    experiment, home = place
    other = MdelHome(tmp_path / "elsewhere")
    shutil.copytree(home.root, other.root)
    again = other.lineage(experiment)
    before = again.artifact("experiment_report").require()
    again.artifact("experiment_report").remove()
    assert make_one(again, "experiment_report") == before
    assert report_of(again) == report_of(lineage)
    assert str(home.root) not in report_of(lineage)
    assert str(experiment.source.train[0]).rpartition("/")[0] not in report_of(lineage)


def test_it_is_stale_when_what_it_shows_changes(place, tmp_path):
    experiment, home = place
    own = MdelHome(tmp_path / "home")
    shutil.copytree(home.root, own.root)
    lineage = own.lineage(experiment)
    assert lineage.stale("experiment_report") is None
    elsewhere = experiment.model_copy(update={"hub": Hub(namespace="someone")})
    assert own.lineage(elsewhere).stale("experiment_report") is None
    changed = own.lineage(with_domains(experiment, name="Law"))
    assert "settings" in changed.stale("experiment_report").reason
    # What is gone is left out; a page with it is another one.
    lineage.artifact("sample_texts", "seed").remove()
    assert "sample_texts 'seed'" in lineage.stale("experiment_report").reason
    make_one(lineage, "experiment_report")
    assert "sample_texts 'seed'" not in lineage.artifact("experiment_report").require().inputs


def test_it_takes_the_ends_of_the_line_and_goes_back_to_everything_before_them(lineage):
    identity = lineage.identity("experiment_report")
    taken = {artifact.kind for artifact in lineage.inputs("experiment_report")}
    ends = {"perplexity_matrix", "ensemble_report", "sample_texts", "layer_differences"}
    assert taken == ends
    everything = {
        (kind, key): lineage.artifact(kind, key).require()
        for kind, keys in lineage.walk()
        for key in keys
        if kind != "experiment_report"
    }
    assert records_behind(lineage, identity) == everything


def test_what_was_made_anew_since_is_not_shown_as_what_the_page_was_made_from(place, tmp_path):
    own = MdelHome(tmp_path / "home")
    shutil.copytree(place[1].root, own.root)
    lineage = own.lineage(place[0])
    identity = lineage.identity("experiment_report")
    artifact = lineage.artifact("expert_model", "arxiv")
    again = dataclasses.replace(artifact.require(), fingerprint="0" * 32).sealed()
    artifact.record_path.write_text(again.text(), "utf-8")
    found = records_behind(lineage, identity)
    assert ("expert_model", "arxiv") not in found
    assert ("expert_model", "github") in found
    assert ("domain_dataset", "arxiv") in found


def test_forgetting_a_domain_finds_it(place, lineage):
    plan = plan_forgetting(place[1], lineage, "arxiv")
    assert "experiment_report" in {entry.found.artifact.label for entry in plan.derived}


def with_domains(experiment, **changes):
    """Return the experiment with other settings of its third domain."""
    *others, last, absent = experiment.domain_table
    domains = (*others, last.model_copy(update=changes), absent)
    return experiment.model_copy(update={"domains": domains})


def test_text_under_copyright_is_not_shown(place):
    experiment, home = place
    free = texts_of(home.lineage(experiment))
    assert {text.domain for text in free.shown} == {"github", "arxiv", "freelaw"}
    lineage = home.lineage(with_domains(experiment, aliases=("Books3",)))
    found = texts_of(lineage)
    assert {text.domain for text in found.shown} == {"github", "arxiv"}
    assert found.kept_away == ["freelaw"]
    page = render(contents_of(lineage, lineage.identity("experiment_report")))
    (secret,) = [text for text in free.shown if text.domain == "freelaw"]
    assert secret.prompt not in page
    assert secret.reference not in page
    assert "Text under copyright is not shown: freelaw." in page


def hostile_page(place, tmp_path):
    """Return a page with hostile names and texts wherever an experiment or a corpus has a say."""
    experiment, home = place
    own = MdelHome(tmp_path / "hostile")
    shutil.copytree(home.root, own.root)
    lineage = own.lineage(with_domains(experiment, name=HOSTILE + RIGHT_TO_LEFT + "long" * 125))
    artifact, identity = (f("sample_texts", "seed") for f in (lineage.artifact, lineage.identity))
    lines = (artifact.folder / "samples.jsonl").read_text().splitlines()
    samples = [
        json.loads(line) | {"prompt": f"P{HOSTILE}", "continuation": f"C{HOSTILE}{RIGHT_TO_LEFT}"}
        for line in lines
    ]
    with artifact.staging() as stage:
        written = "".join(json.dumps(sample) + "\n" for sample in samples)
        (stage / "samples.jsonl").write_text(written)
        artifact.publish(stage, identity)
    page = contents_of(lineage, lineage.identity("experiment_report"))
    heat = page.heats[0]
    named = dataclasses.replace(heat, rows=[dataclasses.replace(heat.rows[0], model=HOSTILE)])
    curves = curves_svg({HOSTILE[:20]: [(1, 2.0), (2, 1.0)]})
    return dataclasses.replace(
        page,
        heats=[named, *page.heats[1:]],
        notes=[HOSTILE],
        trainings=dataclasses.replace(page.trainings, curves=curves),
    )


def test_hostile_names_and_texts_are_text(place, tmp_path):
    page = hostile_page(place, tmp_path)
    read = Read(render(page))
    assert read.misnested == []
    assert "script" not in {tag for tag, _ in read.elements}
    assert f"P{HOSTILE} …" in read.text
    # A mark that reverses what follows is shown as what cannot be shown.
    assert f"C{HOSTILE}{RIGHT_TO_LEFT}".replace("\u202e", "�") in read.text
    assert "\u202e" not in read.text
    assert read.row(f"Bits per byte on {page.heats[0].split}", HOSTILE)
    assert HOSTILE.replace("`code`", "code") in read.text
    assert "long" * 125 in read.text
    assert read.text.count(HOSTILE[:20]) > read.text.count(HOSTILE)


def test_an_ensemble_without_a_figure_comes_last(lineage, tmp_path):
    """Reports from before documents of no expert's domain were weighed have such."""
    home = MdelHome(tmp_path / "home")
    shutil.copytree(lineage.root, home.root / lineage.root.name)
    old = home.lineage(lineage.experiment)
    path = old.artifact("ensemble_report").folder / AVERAGES_NAME
    rows = pq.read_table(path).to_pylist()
    for row in rows:
        if row["model"] in ("ensemble-label", "dense"):
            row["macro_bits_per_byte"] = math.nan
    path.unlink()
    pq.write_table(pa.Table.from_pylist(rows), path)
    found = together_of(old, read_matrix(old)).rows
    assert {row.model for row in found[-2:]} == {"ensemble-label", "dense"}
    bits = [row.bits for row in found[:-2]]
    assert bits == sorted(bits)
    assert len(bits) > 10


def test_a_corpus_of_one_domain_without_texts_and_baselines_has_a_page(corpus, home):
    experiment = pico_experiment(
        corpus,
        source={"validation": None, "test": None, "holdout_fraction": 0.2, "max_reject_rate": 1.0},
        domains=[{"key": "github", "name": "Github"}],
        baselines={"dense": False, "dense_one": False, "random_split": False},
        merges={},
        evaluation={"max_length": 32, "num_bootstrap_samples": 100}
        | {"sample_texts": {"num_documents": 0}},
    )
    lineage = home.lineage(experiment)
    for kind in lineage.kinds():
        make_all(lineage, kind, lineage.keys(kind))
    read = Read(report_of(lineage))
    assert read.misnested == []
    links = [a["href"] for tag, a in read.elements if tag == "a"]
    assert links == ["#studied", "#models", "#training", "#data", "#costs", "#provenance"]
    headline, evidence, _ = lineage.artifact("experiment_report").require().details["verdict"]
    assert "best single model" in headline or "too little" in headline
    assert evidence.startswith(("`expert-github` on average: ", "`seed` on average: "))
    # The other labels of the corpus are no domain here.
    counts = lineage.artifact("shard_documents", "00").require().counts
    assert counts["num_rejects"] == 20
    assert read.row("Shards of the corpus", "00")[5] == "20"


def test_a_forecast_is_shown_beside_what_came_of_it(lineage):
    page = contents_of(lineage, lineage.identity("experiment_report"))
    assert page.foretold is None
    predictions = {"ensemble": {"gain": -0.25, "low": -1.5, "high": 1.0}}
    predictions["mixture"] = {"gain": 2.0, "low": 1.0, "high": 3.0}
    details = {"advice": "Train `them`.", "predictions": predictions, "trust": "Right twice."}
    seed = lineage.artifact("seed_model").require()
    record = dataclasses.replace(seed, details=details)
    foretold = foretold_of(lineage, {Input("merge_forecast"): record})
    read = Read(render(dataclasses.replace(page, foretold=foretold)))
    measured = read_outcome(lineage, "pico").gain("ensemble")
    shown = [f"{value:+.2f}".replace("-", "−") for value in (-0.25, -1.5, 1.0, measured)]
    told = ["ensemble", f"{shown[0]} %", f"{shown[1]} to {shown[2]} %", f"{shown[3]} %"]
    assert read.row("Forecast", "ensemble") == told
    assert read.row("Forecast", "mixture")[3] == "–"
    assert "Right twice." in read.text


@pytest.mark.parametrize("name", bundled_experiments())
def test_the_settings_of_the_page_are_the_experiment(name):
    experiment = load_experiment(name)
    shown = parse_experiment(as_yaml(shown_settings(experiment)), origin="page")
    without = {"hub": Hub(), "tracking": shown.tracking}
    assert shown == experiment.model_copy(update=without)


def test_settings_tell_no_folder_user_or_password(corpus):
    places = ["/home/me/secret/00.jsonl", "https://me:word@host.example/01.jsonl?token=x"]
    experiment = pico_experiment(corpus, source={"train": places})
    content = yaml.safe_load(as_yaml(shown_settings(experiment)))
    assert content["source"]["train"] == ["00.jsonl", "https://host.example/01.jsonl"]


def test_settings_tell_no_folder_of_an_adapter_and_keep_labels_that_look_like_places(corpus):
    models = [{"model": "seed+/home/me/secret/lora"}, {"model": "expert:github"}]
    merges = {"adapted": {"merge_method": "linear", "models": models}}
    domains = [{"key": "github", "name": "/pol/"}, {"key": "arxiv", "name": "~ArXiv"}]
    experiment = pico_experiment(corpus, domains=domains, merges=merges)
    content = yaml.safe_load(as_yaml(shown_settings(experiment)))
    shown = [entry["model"] for entry in content["merges"]["adapted"]["models"]]
    assert shown == ["seed+lora", "expert:github"]
    assert content["domains"] == domains


def test_a_bar_that_is_longer_than_the_scale_is_broken():
    changes = [Estimate(value, value - 0.01, value + 0.01, 20) for value in (-0.9, -0.05, 0.01)]
    rows = bars_of(
        [Measured("merged-m", change) for change in changes], title="", scale=(-0.1, 0.1)
    ).rows
    assert [(row.left, row.width) for row in rows] == [(0.0, 500.0), (250.0, 250.0), (500.0, 50.0)]
    assert [row.cut_at for row in rows] == [40.0, None, None]
    assert [(row.low, row.high) for row in rows[1:]] == [(200.0, 300.0), (500.0, 600.0)]
    assert rows[0].figures == "-0.900 [-0.910, -0.890]"
    assert [row.is_sure for row in rows] == [True, True, False]


def test_labels_at_the_ends_of_lines_keep_apart():
    assert _apart([5.0, 3.0], gap=1.0, low=0.0, high=9.0) == [5.0, 3.0]
    assert _apart([5.0, 4.9, 4.8], gap=1.0, low=0.0, high=9.0) == [5.0, 4.0, 3.0]
    assert _apart([0.2, 0.1], gap=1.0, low=0.0, high=9.0) == [1.0, 0.0]
    assert _apart([12.0, 8.5], gap=1.0, low=0.0, high=9.0) == [9.0, 8.0]
