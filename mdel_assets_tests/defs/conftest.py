"""What the tests of several clusters compare with, made once."""

import pytest

from mdel_assets_tests.conftest import pico_experiment
from mdel_assets_tests.defs.expert_jobs import Place, branch, training_of


@pytest.fixture(scope="session")
def seeded(corpus, tmp_path_factory):
    """A home with datasets and a seed, and no expert yet."""
    return branch(corpus, tmp_path_factory.mktemp("seeded") / "home")


@pytest.fixture(scope="session")
def long(corpus):
    """An experiment whose experts train for some seconds, with many checkpoints."""
    return pico_experiment(corpus, training=training_of(1000))


@pytest.fixture(scope="session")
def alone(seeded, long, tmp_path_factory):
    """The long experts of two domains, trained in the step's own process."""
    place = Place.of(seeded, tmp_path_factory.mktemp("alone") / "home", long, {})
    run = place.train("github", "arxiv")
    assert not run.failure
    assert run.recorded == {"github", "arxiv"}
    return place
