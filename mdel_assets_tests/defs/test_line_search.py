"""A searched merge through Dagster: its asset, its checks, the model of its weights, a kill."""

import json
import shutil
import signal
import time

import dagster as dg
import pyarrow.parquet as pq
import pytest
import yaml

from mdel_assets.defs.launch import run_line
from mdel_assets.home import MdelHome
from mdel_assets.merging.merged_cards import merged_model_card
from mdel_assets.merging.trials import read_trials
from mdel_assets.scoring.perplexity import read_cells
from mdel_assets_tests import warm_python
from mdel_assets_tests.conftest import PICO, forge, pico_experiment
from mdel_assets_tests.defs.finished_line import materialize

SEARCH = {"num_trials": 12, "num_documents": 4, "max_characters": 200, "num_test_documents": 5}
RECIPE = {
    "merge_method": "task_arithmetic",
    "models": [{"model": "expert:*"}],
    "mdel": {"search": SEARCH},
}
MERGES = PICO["merges"] | {"found": RECIPE}


@pytest.fixture(scope="module")
def searched(finished, corpus, tmp_path_factory):
    """The finished line with a searched merge added: (experiment, home, outcomes)."""
    _, home, _ = finished
    own = MdelHome(tmp_path_factory.mktemp("searched") / "home")
    shutil.copytree(home.root, own.root)
    experiment = pico_experiment(corpus, merges=MERGES)
    with dg.DagsterInstance.ephemeral() as instance:
        outcomes = list(run_line(experiment, own, instance=instance))
    return experiment, own, outcomes


def test_a_searched_merge_is_made_scored_and_in_the_matrix(searched):
    experiment, home, outcomes = searched
    made = [(o.kind, o.key) for o in outcomes if o.state == "made"]
    assert made == [
        ("searched_merge", "found"),
        ("merged_model", "found"),
        ("token_scores", "merged-found"),
        ("perplexity_report", "merged-found"),
        ("perplexity_matrix", ""),
        ("ensemble_report", ""),
        ("sample_texts", "merged-found"),
        ("experiment_report", ""),
    ], [o.message for o in outcomes]
    reports = home.root / "pico" / "reports"
    table = pq.read_table(reports / "perplexity.parquet")
    assert "merged-found" in table.column("model").to_pylist()
    # The corpus has no other validation documents than those of the matrix.
    note = (
        "`merged-found`: its weights were chosen on validation text, and 12 of those 12 documents"
    )
    assert note in (reports / "perplexity.md").read_text()
    with dg.DagsterInstance.ephemeral() as instance:
        assert {o.state for o in run_line(experiment, home, instance=instance)} == {"up to date"}


def test_the_model_is_the_one_that_was_found(searched):
    experiment, home, _ = searched
    lineage = home.lineage(experiment)
    record = lineage.artifact("searched_merge", "found").require()
    trials = read_trials(lineage.folder("searched_merge", "found") / "trials.jsonl")
    assert len(trials) <= SEARCH["num_trials"]
    starts = [t.bits_per_byte for t in trials if t.origin not in ("step", "surrogate")]
    assert len(starts) == 5
    assert record.details["best"]["bits_per_byte"] == min(t.bits_per_byte for t in trials)
    assert record.details["best"]["bits_per_byte"] <= min(starts)
    merged = lineage.folder("merged_model", "found")
    recipe = yaml.safe_load((merged / "mergekit_config.yml").read_text())
    assert "mdel" not in recipe
    weights = {m["model"]: m["parameters"]["weight"] for m in recipe["models"]}
    assert weights == record.details["weights"]
    assert list(weights.values()) == record.details["best"]["weights"]
    found = lineage.folder("searched_merge", "found") / "mergekit_config.yml"
    assert found.read_text() == (merged / "mergekit_config.yml").read_text()


def test_the_verdict_is_what_the_merged_model_scores_on_test_text(searched, corpus, tmp_path):
    """The model on disk, scored by the line on test splits, says the same as the search did."""
    experiment, home, _ = searched
    record = home.lineage(experiment).artifact("searched_merge", "found").require()
    verdicts = {verdict["split"]: verdict for verdict in record.details["verdicts"]}
    assert set(verdicts) == {"test_domain", "test_pile"}
    copy = MdelHome(tmp_path / "home")
    shutil.copytree(home.root, copy.root)
    evaluation = PICO["evaluation"] | {"splits": ["test_domain"], "max_documents": 5}
    scoring = pico_experiment(corpus, merges=MERGES, evaluation=evaluation)
    # Scores are made of the models as they are: other settings of scoring change no model.
    lineage = copy.lineage(scoring)
    for key in ("merged-found", "merged-mean-all", "seed"):
        result = materialize(scoring, copy, "token_scores", key)
        assert result.success
    bits = {
        key: {
            cell.dataset: cell.bits_per_byte
            for cell in read_cells(lineage.folder("token_scores", key))
        }
        for key in ("merged-found", "merged-mean-all", "seed")
    }
    for domain, own in verdicts["test_domain"]["domains"].items():
        assert own["searched"] == pytest.approx(bits["merged-found"][domain], abs=1e-5)
        assert own["uniform mean"] == pytest.approx(bits["merged-mean-all"][domain], abs=1e-5)
        assert own["seed"] == pytest.approx(bits["seed"][domain], abs=1e-5)
    change = next(c for c in verdicts["test_domain"]["changes"] if c["rival"] == "uniform mean")
    means = [sum(b.values()) / len(b) for b in (bits["merged-found"], bits["merged-mean-all"])]
    assert change["value"] == pytest.approx(means[0] - means[1], abs=1e-5)
    assert change["low"] <= change["value"] <= change["high"]


def test_the_asset_shows_chart_weights_and_checks_that_can_fail(searched, tmp_path):
    experiment, home, _ = searched
    copy = MdelHome(tmp_path / "home")
    shutil.copytree(home.root, copy.root)
    search = copy.lineage(experiment).artifact("searched_merge", "found")
    folder, details = search.folder, search.require().details
    for change in details["verdicts"][0]["changes"]:
        change |= {"value": 0.2, "low": 0.1, "high": 0.3, "num_documents": 16}
    trials = (folder / "trials.jsonl").read_text().splitlines()
    value = json.loads(trials[0])["bits_per_byte"]
    trials[0] = trials[0].replace(str(value), "0." + "1" * (len(str(value)) - 2))
    (folder / "trials.jsonl").unlink()
    (folder / "trials.jsonl").write_text("\n".join(trials) + "\n")
    forge(search, details=details)
    for place, passed in ((home, True), (copy, False)):
        result = materialize(experiment, place, "searched_merge", "found", raise_on_error=False)
        (materialization,) = result.asset_materializations_for_node("searched_merge")
        metadata = materialization.metadata
        assert metadata["trials"].value.startswith("![trials](data:image/png;base64,")
        assert "| seed |" in metadata["report"].value
        shown = {row.data["model"] for row in metadata["weights"].records}
        assert shown == {"expert-github", "expert-arxiv", "expert-freelaw"}
        checks = {c.check_name: c.passed for c in result.get_asset_check_evaluations()}
        assert checks["best_of_all_trials"] is passed
        if not passed:
            assert checks["not_worse_than_the_mean_on_test"] is False


def test_the_card_tells_of_search_and_perplexity(searched):
    experiment, home, _ = searched
    lineage = home.lineage(experiment)
    written = (lineage.folder("merged_model", "found") / "README.md").read_text()
    assert "| `searched_merge 'found'` |" in written
    assert "[searches/found](../../../searches/found)" in written
    assert "`test_domain`, " in written
    assert "## Perplexity" not in written
    now = merged_model_card(lineage, "found")
    assert now.startswith(written.rstrip())
    rows = lineage.artifact("perplexity_report", "merged-found").require().details["rows"]
    for row in rows:
        assert f"| {row['dataset']} | `{row['split']}` | {row['bits_per_byte']:.4f} |" in now
    # A stranger has neither the disk's places nor, here, the table: publishing has its own.
    published = merged_model_card(lineage, "found", is_published=True)
    assert "../" not in published
    assert "## Perplexity" not in published
    assert "`test_domain`, " in published
    # A report of another model of this name is not this one's.
    report = lineage.artifact("perplexity_report", "merged-found")
    kept = report.record_path.read_text()
    forge(report, details={"rows": [row | {"model_fingerprint": "0" * 32} for row in rows]})
    assert merged_model_card(lineage, "found") == written
    report.record_path.write_text(kept)


STEP = """
import sys
from pathlib import Path
from mdel_assets.experiment.loading import load_experiment
from mdel_assets.home import MdelHome
from mdel_assets.line.making import make_one
lineage = MdelHome(Path(sys.argv[1])).lineage(load_experiment(sys.argv[2]))
make_one(lineage, "searched_merge", "found")
"""


@pytest.mark.slow
def test_a_search_that_is_killed_goes_on_and_comes_to_the_same_bits(searched, tmp_path):
    experiment, home, _ = searched
    copy = MdelHome(tmp_path / "home")
    shutil.copytree(home.root, copy.root)
    lineage = copy.lineage(experiment)
    artifact = lineage.artifact("searched_merge", "found")
    whole = {path.name: path.read_bytes() for path in artifact.folder.iterdir()}
    shutil.rmtree(artifact.folder)
    path = tmp_path / "experiment.yaml"
    path.write_text(yaml.safe_dump(json.loads(experiment.model_dump_json(exclude_none=True))))
    words = ["-c", STEP, copy.root, path]
    log = copy.root / "pico" / "work"
    for wanted in (2, 8):
        with warm_python.start(words) as process:
            deadline = time.monotonic() + 120
            while sum(
                len(p.read_bytes().splitlines()) for p in log.glob("searched_merge-*/*.jsonl")
            ) < (wanted):
                assert process.poll() is None, process.stdout.read()
                assert time.monotonic() < deadline
            process.kill()
        assert process.returncode == -signal.SIGKILL
        assert not artifact.folder.exists()
    warm_python.run(words, check=True)
    assert {path.name: path.read_bytes() for path in artifact.folder.iterdir()} == whole
    assert not list(log.glob("searched_merge-*"))
