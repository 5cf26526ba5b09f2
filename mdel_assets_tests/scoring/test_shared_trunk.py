"""Models scored together on a shared trunk get the figures that each gets alone."""

import copy

import numpy as np
import pytest
import torch

from mdel_assets.errors import ScoringError
from mdel_assets.scoring.log_probabilities import (
    log_probabilities_together,
    token_log_probabilities,
)
from mdel_assets.scoring.shared_trunk import (
    SharedTrunk,
    num_shared_layers,
    share_equal_tensors,
)
from mdel_assets.training.layers import layer_list_name
from mdel_assets.training.model_files import load_model

MAX_LENGTH = 16
DOCUMENTS = [
    np.random.default_rng(n).integers(1, 320, size).tolist()
    for n, size in enumerate((1, 16, 17, 60, 5))
]


def layers_of(model):
    name = layer_list_name(model, num_layers=3)
    return model.get_submodule(name)


def changed(model, *, from_layer, seed):
    """Return a copy of ``model`` with other weights from ``from_layer`` on."""
    draw = torch.Generator().manual_seed(seed)
    other = copy.deepcopy(model)
    with torch.no_grad():
        for layer in list(layers_of(other))[from_layer:]:
            for tensor in layer.parameters():
                tensor.add_(0.05 * torch.randn(tensor.shape, generator=draw))
    return other


def calls_counted(model):
    """Count how often each of the model's layers is run."""
    counts = [0] * 3
    for index, layer in enumerate(layers_of(model)):
        forward = layer.forward

        def counting(*arguments, index=index, forward=forward, **options):
            counts[index] += 1
            return forward(*arguments, **options)

        layer.forward = counting
    return counts


@pytest.mark.parametrize("family", ["gpt_neox", "llama", "gpt2", "gemma2"])
def test_models_get_the_figures_that_each_gets_alone(make_model, family):
    names = {"n_layer": 3, "n_embd": 32, "n_head": 2, "n_positions": 64} if family == "gpt2" else {}
    if family == "gemma2":
        names = {"num_key_value_heads": 2, "head_dim": 16, "sliding_window": 8}
    seed = load_model(make_model(family, **names))
    models = [seed, *(changed(seed, from_layer=2, seed=n) for n in range(3))]
    options = {"prefix": 0, "max_length": MAX_LENGTH}
    alone = [token_log_probabilities(model, DOCUMENTS, **options) for model in models]
    counts = [calls_counted(model) for model in models]
    together = log_probabilities_together(models, DOCUMENTS, **options)
    for ours, theirs in zip(together, alone, strict=True):
        for mine, yours in zip(ours, theirs, strict=True):
            np.testing.assert_allclose(mine, yours, rtol=0, atol=1e-5)
    assert not np.allclose(together[1][3], together[2][3])
    probes = 2  # what the output layer is probed with
    batches = counts[1][2] - counts[1][0] + probes
    assert batches >= 1
    assert all(own[0] == own[1] <= probes + 1 for own in counts[1:])
    # Unwired: each model is as it was.
    again = token_log_probabilities(models[1], DOCUMENTS, **options)
    np.testing.assert_array_equal(again[3], alone[1][3])


def test_shared_layers_are_counted_up_to_the_first_difference(make_model):
    seed = load_model(make_model())
    assert num_shared_layers([seed, copy.deepcopy(seed)]) == 3
    assert num_shared_layers([seed, changed(seed, from_layer=1, seed=0)]) == 1
    assert num_shared_layers([seed, changed(seed, from_layer=0, seed=0)]) == 0
    other = copy.deepcopy(seed)
    with torch.no_grad():
        other.get_input_embeddings().weight[7, 7] += 1e-3
    assert num_shared_layers([seed, other]) == 0
    assert num_shared_layers([seed, load_model(make_model("llama"))]) == 0
    head = copy.deepcopy(seed)
    with torch.no_grad():
        head.get_output_embeddings().weight[7, 7] += 1e-3
    assert num_shared_layers([seed, head]) == 3


def test_models_that_compute_otherwise_with_equal_weights_run_alone(make_model):
    """Another position base changes what the common layers give: the probe must notice."""
    seed = load_model(make_model("llama"))
    other = load_model(
        make_model("llama", rope_parameters={"rope_type": "default", "rope_theta": 50.0})
    )
    other.load_state_dict(seed.state_dict())
    options = {"prefix": 0, "max_length": MAX_LENGTH}
    alone = [token_log_probabilities(model, DOCUMENTS, **options) for model in (seed, other)]
    assert not np.allclose(alone[0][3], alone[1][3])
    together = log_probabilities_together([seed, other], DOCUMENTS, **options)
    for ours, theirs in zip(together, alone, strict=True):
        np.testing.assert_allclose(ours[3], theirs[3], rtol=0, atol=1e-5)


def test_a_broken_model_does_not_harm_the_others(make_model):
    seed = load_model(make_model())
    broken = changed(seed, from_layer=2, seed=0)
    with torch.no_grad():
        next(layers_of(broken)[2].parameters()).fill_(float("nan"))
    options = {"prefix": 0, "max_length": MAX_LENGTH}
    alone = token_log_probabilities(seed, DOCUMENTS, **options)
    good, bad = log_probabilities_together([seed, broken], DOCUMENTS, **options)
    np.testing.assert_allclose(good[3], alone[3], rtol=0, atol=1e-5)
    assert isinstance(bad, ScoringError)


def test_equal_tensors_are_held_once(make_model):
    seed = load_model(make_model())
    other = changed(seed, from_layer=2, seed=0)
    expected = sum(t.numel() * t.element_size() for t in layers_of(other)[2].parameters())
    assert share_equal_tensors(other, seed) == expected
    assert other.get_output_embeddings().weight is seed.get_output_embeddings().weight
    assert layers_of(other)[0].attention.dense.weight is layers_of(seed)[0].attention.dense.weight
    assert SharedTrunk([seed, other]).num_layers == 2
