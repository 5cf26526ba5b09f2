"""Dagster's own commands through ``mdel``: recorded in the experiment's instance."""

import importlib.util
import logging
import os
import socket
import subprocess
import sys
import tomllib
import types
from pathlib import Path

import dagster as dg
import pytest
import yaml
from click.testing import CliRunner

from mdel_assets.cli import dagster_commands
from mdel_assets.cli.main import main
from mdel_assets.defs.instance import open_instance
from mdel_assets_tests.conftest import PICO, pico_experiment
from mdel_assets_tests.defs.running_dagster import command

pytestmark = pytest.mark.in_use
ROOT = Path(__file__).parents[2]


@pytest.fixture
def shell(corpus, home, tmp_path):
    """A function that runs ``mdel`` in a fresh shell and returns what it printed."""
    source = pico_experiment(corpus).source.model_dump(mode="json", exclude_unset=True)
    path = tmp_path / "pico.yaml"
    path.write_text(yaml.safe_dump(PICO | {"source": source}))
    environment = os.environ | {"MDEL_HOME": str(home.root), "MDEL_EXPERIMENT": str(path)}
    environment.pop("PYTHONWARNINGS", None)

    def run(*words):
        done = subprocess.run(
            [command("mdel"), *words],
            env=environment,
            cwd=tmp_path,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        assert done.returncode == 0, done.stdout[-5000:]
        return done.stdout

    return run


@pytest.mark.slow
@pytest.mark.parametrize(
    "words",
    [
        ("dg", "launch", "--assets", "raw_pile_shard", "--partition", "val"),
        ("dagster", "asset", "materialize", "--select", "raw_pile_shard", "--partition", "val"),
    ],
)
def test_a_run_in_a_fresh_shell_is_recorded(shell, home, words):
    printed = shell(*words)
    with open_instance(home, "pico") as instance:
        (run,) = instance.get_runs()
        assert run.status == dg.DagsterRunStatus.SUCCESS
        assert run.tags["mdel/experiment"] == "pico"
    # The older command calls itself superseded.
    assert ("Warning" in printed) == (words[0] == "dagster")
    assert "Telemetry" not in printed


def test_dg_comes_with_the_package():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert any(name.startswith("dagster-dg-cli") for name in project["dependencies"])
    assert "dagster-dg-cli==" in (ROOT / "constraints.txt").read_text()


@pytest.mark.parametrize(("name", "package"), [("dg", "dagster_dg_cli"), ("dagster", "dagster")])
def test_without_dagsters_package_the_remedy_is_named(home, monkeypatch, name, package):
    found = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda asked: None if asked == package else found(asked)
    )
    done = CliRunner().invoke(main, [name, "list"], env={"MDEL_HOME": str(home.root)})
    assert done.exit_code == 1
    assert f"The command '{name}' is not installed" in done.output
    assert "Run 'make install'" in done.output
    assert not home.root.exists()


def test_dagsters_commands_show_their_log_alone(home, monkeypatch):
    seen = []

    def command_of(name):
        assert name == "dagster._cli"
        return types.SimpleNamespace(main=lambda: seen.append(list(logging.getLogger().handlers)))

    monkeypatch.setattr(dagster_commands, "importlib", types.SimpleNamespace(**vars(importlib)))
    monkeypatch.setattr(dagster_commands.importlib, "import_module", command_of)
    monkeypatch.setattr(sys, "argv", list(sys.argv))
    for name in ("DAGSTER_HOME", "DAGSTER_MODULE_NAME"):
        monkeypatch.setenv(name, "")
    done = CliRunner().invoke(main, ["dagster", "dev"], env={"MDEL_HOME": str(home.root)})
    assert done.exit_code == 0, done.output
    # `mdel` itself shows log lines, too.
    assert seen == [[]]


def has_ipv6():
    try:
        with socket.create_server(("::1", 0), family=socket.AF_INET6):
            return True
    except OSError:
        return False


@pytest.mark.parametrize(
    ("host", "family"),
    [
        ("127.0.0.1", socket.AF_INET),
        pytest.param(
            *("::1", socket.AF_INET6),
            marks=pytest.mark.skipif(not has_ipv6(), reason="this machine has no IPv6"),
        ),
    ],
)
def test_a_taken_port_starts_nothing(home, monkeypatch, host, family):
    monkeypatch.setenv("MDEL_HOME", str(home.root))
    with socket.create_server((host, 0), family=family) as taken:
        port = taken.getsockname()[1]
        done = CliRunner().invoke(main, ["ui", "--host", host, "--port", str(port)])
    assert done.exit_code == 1
    assert "(Address already in use" in done.output
    assert f"choose another port: mdel ui --port {port + 1}" in done.output
    assert not home.root.exists()
