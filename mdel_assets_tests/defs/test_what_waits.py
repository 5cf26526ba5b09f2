"""A line in which something fails: what needs it waits, the rest is made, the cause comes last."""

import os
import shutil
import signal

import dagster as dg
import pytest
from click.testing import CliRunner

from mdel_assets.cli.main import main
from mdel_assets.defs.interrupts import noting_signals
from mdel_assets.defs.launch import run_line
from mdel_assets.home import MdelHome
from mdel_assets.line.not_made import reasons_not_made
from mdel_assets_tests.conftest import forge, pico_experiment
from mdel_assets_tests.defs.running_dagster import environment

pytestmark = pytest.mark.in_use


@pytest.fixture(scope="module")
def without_seed(corpus, tmp_path_factory):
    """Outcomes of a line whose seed model cannot be read: (experiment, home, outcomes)."""
    folder = tmp_path_factory.mktemp("without_seed")
    seed = folder / "seed"
    seed.mkdir()
    (seed / "config.json").write_text("{}")
    experiment = pico_experiment(corpus, seed_model={"path": str(seed)})
    home = MdelHome(folder / "home")
    with dg.DagsterInstance.ephemeral() as instance:
        return experiment, home, list(run_line(experiment, home, instance=instance))


def test_what_needs_a_failed_thing_is_skipped_and_says_on_whom_it_waits(without_seed):
    _, _, outcomes = without_seed
    assert [o.kind for o in outcomes if o.state == "failed"] == ["seed_model"]
    waiting = {(o.kind, o.key): o.message for o in outcomes if o.state == "skipped"}
    assert waiting["expert_model", "github, arxiv, freelaw"] == "waits for seed_model"
    assert waiting["token_scores", "seed"] == "waits for seed_model"
    assert waiting["token_scores", "expert-github"] == "waits for expert_model 'github'"
    assert waiting["merged_model", "pair"].startswith("waits for seed_model, expert_model 'github'")
    assert waiting["perplexity_report", "seed"] == "waits for token_scores 'seed'"
    told = "waits for token_scores 'seed', perplexity_report 'seed'"
    assert waiting["perplexity_matrix", ""] == told
    assert waiting["experiment_report", ""] == "waits for perplexity_matrix"
    assert not any("mdel run" in message for message in waiting.values())


def test_made_is_said_of_what_is_there(without_seed):
    experiment, home, outcomes = without_seed
    lineage = home.lineage(experiment)
    for outcome in outcomes:
        if outcome.state == "made":
            assert reasons_not_made(lineage, outcome.kind, outcome.keys) == {}
        for key in outcome.not_made:
            assert lineage.artifact(outcome.kind, key).read_record() is None


def test_one_failed_expert_leaves_the_others_alone(finished, corpus, tmp_path):
    """An expert is gone and its dataset cannot be read, which no digest tells."""
    experiment, whole, _ = finished
    home = MdelHome(shutil.copytree(whole.root, tmp_path / "home"))
    root = home.root / "pico"
    shutil.rmtree(root / "models" / "experts" / "arxiv")
    for kind in ("scores", "models/merged"):
        shutil.rmtree(root / kind)
    dataset = home.lineage(experiment).artifact("domain_dataset", "arxiv")
    (dataset.folder / "train.parquet").unlink()
    (dataset.folder / "train.parquet").write_bytes(b"no Parquet")
    forge(dataset)
    with dg.DagsterInstance.ephemeral() as instance:
        outcomes = list(run_line(experiment, home, instance=instance))
    failed = [(o.kind, *o.not_made) for o in outcomes if o.state == "failed"]
    assert failed == [("expert_model", "arxiv")]
    skipped = {(o.kind, key) for o in outcomes if o.state == "skipped" for key in o.not_made}
    assert {("merged_model", "mean-all"), ("token_scores", "expert-arxiv")} <= skipped
    made = {(o.kind, key) for o in outcomes if o.state == "made" for key in o.keys}
    assert ("merged_model", "pair") in made
    scored = {key for kind, key in made if kind == "token_scores"}
    assert {"seed", "expert-github", "merged-pair"} <= scored
    assert not scored & {"expert-arxiv", "merged-mean-all"}


def test_the_last_lines_name_the_first_cause(corpus, tmp_path, monkeypatch):
    experiment = pico_experiment(corpus, source={"sha256": {"00": "0" * 64}})
    home = MdelHome(tmp_path / "home")
    for name, value in environment(experiment, home, tmp_path).items():
        monkeypatch.setenv(name, value)
    done = CliRunner().invoke(main, ["run", "--workers", "1"])
    assert done.exit_code == 1
    last = done.output.strip().splitlines()[-2:]
    assert last[0] == "Error: 1 failed: raw_pile_shard 00; 6 more wait for these."
    assert last[1].startswith("The first to fail was raw_pile_shard 00: ")
    assert "has sha256" in last[1]
    assert "skipped     domain_dataset     github, arxiv, freelaw and 1 more waits" in done.output


def test_a_signal_that_a_handler_swallows_is_noted():
    before = signal.signal(signal.SIGINT, lambda *_: None)
    try:
        with noting_signals() as has_come:
            assert not has_come()
            os.kill(os.getpid(), signal.SIGINT)
            assert has_come()
        with noting_signals() as has_come:
            assert not has_come()
    finally:
        signal.signal(signal.SIGINT, before)
