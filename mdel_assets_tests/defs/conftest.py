"""What the tests of several clusters compare with, made once."""

import pytest

from mdel_assets.home import MdelHome
from mdel_assets_tests.conftest import pico_experiment
from mdel_assets_tests.defs.expert_jobs import Place, one_thread, training_of
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
