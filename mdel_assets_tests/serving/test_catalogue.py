"""What is listed of models, and the tokenizers by which they are asked."""

import shutil

import pytest

from mdel_assets.generation.speakers import Speakers
from mdel_assets.home import MdelHome
from mdel_assets.serving.catalogue import Catalogue
from mdel_assets_tests.conftest import forge


@pytest.fixture
def own_line(finished, tmp_path):
    """A copy of the finished line that a test may change, with a store."""
    experiment, home, _ = finished
    shutil.copytree(home.root, tmp_path / "home", symlinks=True)
    store = f"file://{tmp_path}/store"
    return MdelHome(tmp_path / "home").lineage(experiment, store=store)


def test_a_model_that_only_the_store_has_is_listed(own_line):
    artifact = own_line.artifact("seed_model")
    artifact.push(artifact.require())
    at = own_line.artifact("seed_model").remote.newest_at()
    artifact.remove()
    models = {
        model["id"]: model
        for model in Catalogue(own_line, Speakers(own_line), loaded={}.get).models()
    }
    assert models["seed"]["created"] == int(at.timestamp())
    assert len(models) > 4


def test_a_model_that_was_made_anew_has_its_new_tokenizer_once_it_is_let_go(own_line):
    artifact = own_line.artifact("seed_model")
    before = artifact.require().fingerprint
    loaded = {"seed": before}
    catalogue = Catalogue(own_line, Speakers(own_line), loaded=loaded.get)
    first = catalogue.tokenizer("seed")
    forge(artifact, fingerprint="f" * len(before))
    assert catalogue.tokenizer("seed") is first
    del loaded["seed"]
    second = catalogue.tokenizer("seed")
    assert second is not first
    loaded["seed"] = "f" * len(before)
    assert catalogue.tokenizer("seed") is second
