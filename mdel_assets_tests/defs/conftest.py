"""The line, run once for all tests of the Dagster side."""

import dagster as dg
import pytest

from mdel_assets.defs.launch import run_line
from mdel_assets.home import MdelHome
from mdel_assets_tests.conftest import pico_experiment


@pytest.fixture(scope="session")
def finished(corpus, tmp_path_factory):
    """The line, run once to its end: (experiment, home, outcomes of the run)."""
    home = MdelHome(tmp_path_factory.mktemp("home"))
    experiment = pico_experiment(corpus)
    with dg.DagsterInstance.ephemeral() as instance:
        outcomes = list(run_line(experiment, home, instance=instance))
    return experiment, home, outcomes
