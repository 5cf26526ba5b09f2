"""What the tests of several clusters compare with, made once."""

import dagster as dg
import pytest

from mdel_assets.defs.launch import run_line
from mdel_assets.home import MdelHome
from mdel_assets_tests.conftest import pico_experiment
from mdel_assets_tests.defs.expert_jobs import Place, one_thread, training_of
from mdel_assets_tests.defs.line_of_jobs import experiment_of
from mdel_assets_tests.made_once import made_once


@pytest.fixture(scope="session")
def seeded(branched):
    """A home with datasets and a seed, and no expert yet."""
    return branched[1]


@pytest.fixture(scope="session")
def long(corpus):
    """An experiment whose experts train for some seconds, with many checkpoints."""
    return pico_experiment(corpus, training=training_of(600))


@pytest.fixture(scope="session")
def alone(seeded, long, tmp_path_factory):
    """The long experts of two domains, trained in the step's own process."""

    def make(folder):
        with one_thread():
            run = Place.of(seeded, folder / "home", long, {}).train("github", "arxiv")
        assert not run.failure
        assert run.recorded == {"github", "arxiv"}

    folder, _ = made_once(tmp_path_factory, "alone", make)
    return Place(MdelHome(folder / "home"), long)


@pytest.fixture(scope="session")
def alone_line(corpus, tmp_path_factory):
    """The home of a line with a search, run to its end by one process."""

    def make(folder):
        with one_thread(), dg.DagsterInstance.ephemeral() as instance:
            outcomes = run_line(experiment_of(corpus), MdelHome(folder), instance=instance)
            assert "failed" not in {outcome.state for outcome in outcomes}

    return MdelHome(made_once(tmp_path_factory, "alone_line", make)[0])
