"""Prices of merges and differences: what they read of each model, reckoned by hand."""

import pytest

from mdel_assets.merging.prices import of_differences, of_merge
from mdel_assets.training.sizes import Sizes
from mdel_assets_tests.conftest import pico_experiment

EXPERTS = {"model": "expert:*"}
# A layer of the pico model: four matrices with their biases, and two norms.
LAYER = (96 * 32 + 96) + (32 * 32 + 32) + (64 * 32 + 64) + (32 * 64 + 32) + 4 * 32
# Embedding and output layer, the last norm, three layers.
WHOLE = 2 * 320 * 32 + 2 * 32 + 3 * LAYER
CHANGED = 2 * LAYER
PARAMETERS_PER_SECOND, COMPARED_PER_SECOND = 8e7, 4e8


def priced(corpus, home, **recipe):
    content = {"merge_method": "linear", "models": [EXPERTS]} | recipe
    content = {name: value for name, value in content.items() if value is not None}
    experiment = pico_experiment(corpus, merges={"one": content})
    return of_merge(Sizes(home.lineage(experiment)), "one")


def test_the_pico_model_has_the_parameters_of_these_tests(branched):
    assert Sizes(branched[1].lineage(branched[0])).model.num_parameters == WHOLE


# Of three experts, and of what else is named.
@pytest.mark.parametrize(
    ("recipe", "num_read"),
    [
        ({}, 3 * CHANGED + (WHOLE - CHANGED)),
        ({"models": [EXPERTS, {"model": "seed"}]}, 4 * CHANGED + (WHOLE - CHANGED)),
        ({"models": [{"model": "random:*"}]}, 3 * CHANGED + (WHOLE - CHANGED)),
        ({"merge_method": "ties"}, 4 * CHANGED + (WHOLE - CHANGED)),
        # Weights of 1 that are not divided by their sum change every tensor.
        ({"parameters": {"normalize": False}}, 3 * WHOLE),
        ({"parameters": {"normalize": False, "weight": 0.25}}, 3 * WHOLE),
        (
            {
                "parameters": {"normalize": False, "weight": 0.5},
                "models": [{"model": "expert:github"}, {"model": "expert:arxiv"}],
            },
            2 * CHANGED + (WHOLE - CHANGED),
        ),
        # Nothing tells in which tensors a model from elsewhere differs.
        ({"models": [EXPERTS, {"model": "/somewhere/model"}]}, 4 * WHOLE),
        ({"tokenizer_source": "union"}, 3 * WHOLE),
        (
            {"models": None, "slices": [{"sources": [EXPERTS | {"layer_range": [0, 2]}]}]},
            3 * (WHOLE - LAYER),
        ),
    ],
)
def test_a_merge_reads_once_what_its_models_have_from_the_seed(corpus, branched, recipe, num_read):
    seconds = priced(corpus, branched[1], **recipe).core_seconds
    assert seconds == pytest.approx(0.1 + num_read / PARAMETERS_PER_SECOND)


def test_memory_of_a_merge_does_not_grow_with_its_models(corpus, branched):
    few = priced(corpus, branched[1], models=[{"model": "expert:github"}, {"model": "seed"}])
    many = priced(corpus, branched[1], models=[EXPERTS, {"model": "seed"}, {"model": "dense"}])
    assert few.memory_bytes == many.memory_bytes == 24 * 2**20
    # The mean of all rows needs a matrix of the vocabulary twice.
    united = priced(corpus, branched[1], tokenizer_source="union")
    assert united.memory_bytes == 24 * 2**20 + 2 * 4 * 320 * 32


def test_differences_pass_over_what_was_trained_and_compare_the_rest(branched):
    price = of_differences(Sizes(branched[1].lineage(branched[0])), "github")
    passes = 2 * CHANGED / PARAMETERS_PER_SECOND
    assert price.core_seconds == pytest.approx(0.1 + WHOLE / COMPARED_PER_SECOND + passes)
    # Eight threads, each with three times 8 MiB.
    assert price.memory_bytes == 192 * 2**20
