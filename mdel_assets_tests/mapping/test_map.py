"""The map of a pico family: run by its command, killed, gone on with, and its table by hand."""

import json
import math
import os
import signal

import pyarrow.parquet as pq
import pytest
import yaml

from mdel_assets.evaluation.outcomes import Outcome
from mdel_assets.experiment.families import load_family
from mdel_assets.experiment.loading import load_experiment
from mdel_assets.forecasting.model import Fitted
from mdel_assets.forecasting.steps import read_probes
from mdel_assets.home import MdelHome
from mdel_assets.mapping.family_map import measured, write_family_map
from mdel_assets.mapping.map_files import map_figure, read_map
from mdel_assets.mapping.settings_run import stale_settings
from mdel_assets_tests import warm_python
from mdel_assets_tests.conftest import PICO
from mdel_assets_tests.waiting import wait_until

pytestmark = pytest.mark.slow

COMMAND = [*warm_python.MDEL, "map"]

SINGLES = ("dense", "seed", "merged-mean-all", "merged-ties-all")


@pytest.fixture(scope="module")
def place(corpus, tmp_path_factory):
    """A family of two pico settings: three domains, and two with fewer expert tokens."""
    base = {key: value for key, value in PICO.items() if key != "name"}
    base = json.loads(json.dumps(base))
    shards = {"train": ["00.jsonl.zst", "01.jsonl.zst"], "validation": "val.jsonl.zst"}
    base["source"] = {
        key: [str(corpus / name) for name in value]
        if isinstance(value, list)
        else str(corpus / value)
        for key, value in (shards | {"test": "test.jsonl.zst"}).items()
    } | {"other_labels": "leave_out"}
    base["domains"] = base["domains"][:3]
    base["baselines"] = {"dense": True, "dense_one": False, "random_split": False}
    base["merges"] = {
        "mean-all": {"merge_method": "linear", "models": [{"model": "expert:*"}]},
        "ties-all": {"merge_method": "ties", "models": [{"model": "expert:*"}]},
    }
    base["forecast"] = {"probe_share": 0.06}
    base["evaluation"]["sample_texts"] = {"num_documents": 0}
    settings = {
        "three": None,
        "two": {"domains": base["domains"][:2], "training": {"num_tokens": 1024}},
    }
    path = tmp_path_factory.mktemp("family") / "pico.yaml"
    path.write_text(yaml.safe_dump({"name": "pico", "base": base, "settings": settings}))
    return str(path)


@pytest.fixture(scope="module")
def mapped(place, tmp_path_factory):
    """The home in which the command was killed once it had begun its second setting, and rerun.

    Returns it with what the two runs of the command said on the way, and what the second printed.
    """
    home, folder = tmp_path_factory.mktemp("map"), tmp_path_factory.mktemp("told")
    options = {"env": os.environ | {"MDEL_HOME": str(home)}}
    told = [folder / "first", folder / "second"]
    with told[0].open("wb") as errors:
        first = warm_python.start([*COMMAND, place], errors=errors, **options)

    def is_at_the_second():
        assert first.poll() is None, told[0].read_text()
        return told[0].read_text().count("\n") == 2

    wait_until(is_at_the_second, seconds=600)
    first.send_signal(signal.SIGTERM)
    first.communicate()
    assert first.returncode == 1
    with told[1].open("wb") as errors:
        command = [*COMMAND, place, "--fit", "--json"]
        second = warm_python.run(command, errors=errors, **options)
    first_told, second_told = (path.read_text() for path in told)
    assert second.returncode == 0, second_told
    return MdelHome(home), (first_told, second_told), second.stdout


def test_a_map_that_was_told_to_end_goes_on_where_it_was(mapped):
    home, (first, second), printed = mapped
    lines = first.splitlines()
    assert "2 settings, 2 to run" in lines[0]
    assert lines[1].startswith("1/2 three: made")
    assert "run the same command again" in "\n".join(lines[2:])
    lines = second.splitlines()
    assert "2 settings, 1 to run" in lines[0]
    assert lines[1].startswith("1/1 two: made")
    assert json.loads(printed) == json.loads((home.maps / "pico/map.json").read_text())


def test_branched_models_and_dense_read_the_same_tokens(mapped, place):
    outcomes, missing = measured(load_family(place), mapped[0])
    assert missing == {}
    read = {o.setting.name: o.setting for o in outcomes}
    assert {n: (s.seed_tokens, s.expert_tokens, s.dense_tokens) for n, s in read.items()} == {
        "three": (2048, 3 * 2048, 3 * 2048),
        "two": (2048, 2 * 1024, 2 * 1024),
    }
    assert read["three"].seed_share == 0.25


def bits(lineage, model, domain):
    """Bits per byte of a model on a domain's held-out text, from the scores of its tokens."""
    documents = pq.read_table(lineage.folder("token_scores", model) / "documents.parquet")
    folder = lineage.folder("domain_dataset", domain)
    text = pq.read_table(folder / "validation_domain.parquet")
    size = {row["document_id"]: len(row["text"].encode()) for row in text.to_pylist()}
    own = [row for row in documents.to_pylist() if row["document_id"] in size]
    nats = -sum(sum(row["log_probabilities"]) for row in own)
    return nats / math.log(2) / sum(size[row["document_id"]] for row in own)


def test_the_table_equals_arithmetic_by_hand(mapped, place):
    home = mapped[0]
    outcome = read_map(home.maps / "pico")["three"]
    lineage = home.lineage(load_experiment(f"{place}/three"))
    domains = ["github", "arxiv", "freelaw"]
    macro = {
        model: sum(bits(lineage, model, d) for d in domains) / 3
        for model in (*SINGLES, *(f"expert-{d}" for d in domains))
    }
    dense = macro["dense"]
    assert outcome.bits["dense"] == pytest.approx(dense, rel=1e-6)
    assert outcome.bits["best expert"] == pytest.approx(
        min(macro[f"expert-{d}"] for d in domains), rel=1e-6
    )
    mean, other = outcome.changes["mean"], outcome.changes["other merge"]
    assert mean.estimate.value == pytest.approx(macro["merged-mean-all"] - dense, abs=1e-6)
    assert other.model == "merged-ties-all"
    assert other.estimate.value == pytest.approx(macro["merged-ties-all"] - dense, abs=1e-6)
    gain = 100 * (dense - macro["merged-mean-all"]) / dense
    assert outcome.gain("mean") == pytest.approx(gain, abs=1e-4)
    assert outcome.gain("mixture") is None
    own = [1 - bits(lineage, f"expert-{d}", d) / bits(lineage, "seed", d) for d in domains]
    assert outcome.divergence == pytest.approx(100 * sum(own) / 3, rel=1e-6)


def test_the_ensemble_is_that_of_the_ensemble_report(mapped, place):
    home = mapped[0]
    outcome = read_map(home.maps / "pico")["three"]
    lineage = home.lineage(load_experiment(f"{place}/three"))
    table = pq.read_table(lineage.folder("ensemble_report") / "ensemble.parquet").to_pylist()
    of = {
        model: [
            row["bits_per_byte"]
            for row in table
            if row["model"] == model and row["split"] == "validation_domain"
        ]
        for model in ("ensemble-posterior-all", "dense")
    }
    change = sum(of["ensemble-posterior-all"]) / 3 - sum(of["dense"]) / 3
    assert outcome.changes["ensemble"].estimate.value == pytest.approx(change, abs=1e-9)


def test_the_fit_holds_the_features_of_the_probes_and_the_gains_of_the_table(mapped, place):
    home = mapped[0]
    folder = home.maps / "pico"
    fitted = Fitted.parse((folder / "fitted.json").read_text())
    outcomes = read_map(folder)
    assert [point.setting for point in fitted.points] == ["three", "two"]
    for point in fitted.points:
        lineage = home.lineage(load_experiment(f"{place}/{point.setting}"))
        assert point.features == read_probes(lineage).features()
        outcome = outcomes[point.setting]
        assert point.gains == {name: outcome.gain(name) for name in ("ensemble", "mean")}
        assert point.experts == {
            "divergence": outcome.divergence,
            "gain_over_best_expert": outcome.gain_over_best_expert,
        }
    # Two points are not fitted, and nothing is judged by them.
    assert fitted.lines == {}
    assert "Too few settings" in (folder / "forecasts.md").read_text()


def test_outcomes_that_the_map_holds_are_not_computed_again(mapped, place):
    home = mapped[0]
    path = home.maps / "pico/map.json"
    content = json.loads(path.read_text())
    content["settings"][0]["divergence"] = 77.0
    path.write_text(json.dumps(content))
    outcomes, _ = measured(load_family(place), home)
    assert outcomes[0].divergence == 77.0
    content["settings"][0]["fingerprint"] = "of another report"
    path.write_text(json.dumps(content))
    outcomes, _ = write_family_map(load_family(place), home)
    assert outcomes[0].divergence != 77.0
    assert read_map(home.maps / "pico")["three"] == outcomes[0]


def test_json_holds_all_of_an_outcome(mapped):
    outcome = read_map(mapped[0].maps / "pico")["two"]
    assert Outcome.of(json.loads(json.dumps(outcome.as_json()))) == outcome


def test_the_chart_has_a_mark_for_every_contender_of_every_setting(mapped):
    outcomes = list(read_map(mapped[0].maps / "pico").values())
    (axes,) = map_figure(outcomes).axes
    marks = [line.get_xdata()[0] for line in axes.lines if line.get_marker() == "o"]
    shown = [
        outcome.changes[name].estimate.value
        for outcome in outcomes
        for name in ("ensemble", "mean", "other merge")
    ]
    assert marks == shown


def test_settings_that_were_not_run_are_named_in_the_table(place, tmp_path):
    family, home = load_family(place), MdelHome(tmp_path)
    assert stale_settings(family, home) == ["three", "two"]
    outcomes, folder = write_family_map(family, home)
    assert outcomes == []
    assert "Not on the map: `two`, it has not run to its end." in (folder / "map.md").read_text()
