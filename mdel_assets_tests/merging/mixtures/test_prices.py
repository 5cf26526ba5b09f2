"""Prices of mixtures, against what a mixture holds and what torch's counter sees."""

import math

import pytest

from mdel_assets.evaluation.prices import of_scores
from mdel_assets.home import MdelHome
from mdel_assets.line.making import make_one
from mdel_assets.merging.mixture_sizes import mixture_sizes
from mdel_assets.merging.prices import of_mixture
from mdel_assets.store.tensor_files import TensorFolder
from mdel_assets.training.sizes import Sizes
from mdel_assets_tests.merging.mixtures.folders import load
from mdel_assets_tests.merging.mixtures.mixable import experiment_of, home_with_experts

MIXTURES = {
    "own": {"general_expert": True},
    "learned": {"router": "trained", "training": {"num_steps": 3}},
}


@pytest.fixture(scope="module")
def mixed(corpus, tmp_path_factory):
    """A line with two mixtures."""
    home = MdelHome(home_with_experts(corpus, tmp_path_factory))
    lineage = home.lineage(experiment_of(corpus, **MIXTURES))
    for name in MIXTURES:
        make_one(lineage, "moe_model", name)
    return lineage


def operations_of(folder, *, trained):
    """Return what the counter sees of 4 blocks of 32 tokens, backward too where gates train."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    from mdel_assets.merging.mixtures.trained_gates import only_gates_move
    from mdel_assets.training.fused_loss import LanguageModelLoss

    model = load(folder)
    model.set_attn_implementation("eager")
    model.set_experts_implementation("eager")
    only_gates_move(model)
    ids_BT = torch.randint(300, (4, 32))
    loss = LanguageModelLoss(model.train() if trained else model)
    # The first time, it looks at how the model computes.
    loss(ids_BT)
    with FlopCounterMode(display=False) as counter:
        if not trained:
            with torch.no_grad():
                model(input_ids=ids_BT)
        else:
            loss(ids_BT)["loss"].backward()
    return counter.get_total_flops()


@pytest.mark.parametrize("name", list(MIXTURES))
def test_weights_and_disk_are_those_of_made_mixtures(mixed, name):
    sizes = Sizes(mixed)
    artifact = mixed.artifact("moe_model", name)
    shapes = TensorFolder(artifact.folder).shapes.values()
    assert mixture_sizes(sizes, name).num_parameters == sum(map(math.prod, shapes))
    # Of three layers, the experts' two became mixtures.
    assert mixture_sizes(sizes, name).layers == (1, 2)
    files = artifact.read_record().files.values()
    made = sum(file["size_bytes"] for file in files) + artifact.record_path.stat().st_size
    assert of_mixture(sizes, name).disk_bytes == pytest.approx(made, rel=0.05)


def test_operations_of_scoring_are_those_that_torch_counts(mixed):
    sizes = Sizes(mixed)
    price = of_scores(sizes, "mixture-own")
    counted = operations_of(mixed.folder("moe_model", "own"), trained=False)
    # Windows are as long as the blocks that were counted.
    by_token = sizes.model.forward(1.0, length=32) + mixture_sizes(sizes, "own").more_per_token
    assert 128 * by_token == pytest.approx(counted, rel=1e-3)
    assert price.operations == pytest.approx(price.num_tokens * by_token)


def test_operations_of_trained_gates_are_those_that_torch_counts(mixed):
    sizes = Sizes(mixed)
    made, trained = (of_mixture(sizes, name) for name in ("own", "learned"))
    # The general expert's row is of the text of three domains, as the others' are.
    assert made.num_tokens == 3 * 32_768
    # Three steps of 4 blocks of 32.
    assert trained.num_tokens == made.num_tokens + 3 * 128
    counted = operations_of(mixed.folder("moe_model", "learned"), trained=True)
    assert trained.operations - made.operations == pytest.approx(3 * counted, rel=1e-3)
