"""Prices of models from elsewhere, against the artifact that is made of one."""

import pytest

from mdel_assets.evaluation.prices import evaluated, of_scores
from mdel_assets.generation.prices import of_samples
from mdel_assets.line.making import make_all, make_one
from mdel_assets.training import prices
from mdel_assets.training.model_sizes import ModelSizes
from mdel_assets.training.model_sources import config_of_source
from mdel_assets.training.sizes import Sizes
from mdel_assets_tests.conftest import PICO, pico_experiment


def with_reference(corpus, home, path):
    evaluation = PICO["evaluation"] | {"references": {"other": {"path": str(path)}}}
    experiment = pico_experiment(corpus, evaluation=evaluation)
    return home.lineage(experiment)


def bytes_on_disk(artifact):
    files = artifact.read_record().files.values()
    return sum(file["size_bytes"] for file in files) + artifact.record_path.stat().st_size


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_disk_of_a_reference_is_that_of_an_adopted_one(corpus, branched, make_model, dtype):
    other = make_model("llama", dtype=dtype, hidden_size=64, num_hidden_layers=4)
    lineage = with_reference(corpus, branched[1], other)
    price = prices.of_reference(Sizes(lineage), "other")
    make_one(lineage, "reference_model", "other")
    made = bytes_on_disk(lineage.artifact("reference_model", "other"))
    assert price.disk_bytes == pytest.approx(made, rel=0.05)
    # Widths and layers are the reference's: two matrices of the vocabulary, four layers of seven.
    own = 2 * 320 * 64 + 64 + 4 * (4 * 64 * 64 + 3 * 64 * 64 + 2 * 64)
    assert price.memory_bytes == 4 * own


def test_scores_and_samples_of_a_reference_are_those_of_its_own_sizes(corpus, branched, make_model):
    other = make_model("llama", hidden_size=64, num_hidden_layers=4)
    sizes = Sizes(with_reference(corpus, branched[1], other))
    model = sizes.reference("other").model
    scores, seeds = (of_scores(sizes, key) for key in ("reference-other", "seed"))
    tokens = evaluated(sizes).num_bytes * sizes.reference("other").tokens_per_byte
    assert scores.num_tokens == pytest.approx(tokens)
    # It shares no layer with another: every token goes through all of them.
    assert scores.operations == pytest.approx(model.forward(tokens, length=32))
    assert scores.config is model.config
    assert seeds.config is None
    samples = of_samples(sizes, "reference-other")
    assert samples.memory_bytes == 4 * model.num_parameters
    assert samples.disk_bytes == of_samples(sizes, "seed").disk_bytes


def test_disk_of_a_references_scores_and_samples_is_that_of_made_ones(corpus, branched, make_model):
    other = make_model("llama", hidden_size=64, num_hidden_layers=4)
    lineage = with_reference(corpus, branched[1], other)
    make_one(lineage, "reference_model", "other")
    sizes = Sizes(lineage)
    for kind, price in (("token_scores", of_scores), ("sample_texts", of_samples)):
        make_all(lineage, kind, ["reference-other"])
        made = bytes_on_disk(lineage.artifact(kind, "reference-other"))
        # A record of so small an artifact is smaller than those that prices have in mind.
        bound = pytest.approx(made, rel=0.25, abs=2_500)
        assert price(sizes, "reference-other").disk_bytes == bound, kind


def test_the_sizes_of_a_packages_model_are_known_before_it_is_unpacked():
    sizes = ModelSizes(config_of_source("sample://smollm2-135m", revision="main"))
    # 134,515,008 is what the model's card has.
    assert (sizes.num_parameters, sizes.num_layers) == (134_515_008, 30)
