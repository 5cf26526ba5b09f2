"""MDEL_HOME: each experiment's folder, and where its runs are kept."""

import pytest
from click.testing import CliRunner

from mdel_assets.cli.main import main

pytestmark = pytest.mark.in_use


def test_each_experiment_keeps_its_runs_apart(home, monkeypatch, tmp_path):
    assert home.dagster_home("pico") == home.root / "pico" / "dagster"
    assert home.dagster_home("firm") == home.root / "firm" / "dagster"
    # Dagster's own commands look there, so ours do as well.
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path / "mine"))
    assert home.dagster_home("pico") == tmp_path / "mine"
    home.initialize("pico")
    assert "telemetry" in (tmp_path / "mine" / "dagster.yaml").read_text()
    assert not (home.root / "pico").exists()


def test_a_home_whose_runs_were_kept_together_still_opens_and_says_so_once(home, caplog):
    home.shared_dagster_home.mkdir(parents=True)
    settings = "concurrency: {runs: {max_concurrent_runs: 2}}"
    (home.shared_dagster_home / "dagster.yaml").write_text(settings)
    for _ in range(2):
        home.initialize("pico")
    # A limit that somebody has set holds on.
    assert (home.dagster_home("pico") / "dagster.yaml").read_text() == settings
    (line,) = caplog.messages
    assert f"DAGSTER_HOME={home.root / 'dagster'} mdel ui" in line


def test_a_new_home_says_nothing_of_runs_of_before(home, caplog):
    for experiment in ("pico", "firm"):
        home.initialize(experiment)
    assert caplog.messages == []


def test_init_sets_up_the_instance_of_the_experiment(home, monkeypatch):
    monkeypatch.setenv("MDEL_HOME", str(home.root))
    monkeypatch.setenv("MDEL_EXPERIMENT", "sample-clusters")
    done = CliRunner().invoke(main, ["init"])
    assert done.exit_code == 0, done.output
    assert f"instance of 'sample-clusters': {home.root}/sample-clusters/dagster" in done.output
    assert (home.root / "sample-clusters" / "dagster" / "dagster.yaml").exists()
    assert not (home.root / "dagster").exists()
