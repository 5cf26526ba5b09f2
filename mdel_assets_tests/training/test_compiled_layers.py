"""Compiled layers, traced by torch's compiler and run as they are: a GPU alone is worth more."""

import numpy as np
import pytest
import torch

from mdel_assets.scoring.log_probabilities import Scorer
from mdel_assets.training import compiled_layers
from mdel_assets.training.compiled_layers import layers_of
from mdel_assets.training.model_files import load_model
from mdel_assets.training.optimize import optimize
from mdel_assets_tests.conftest import TRAINING


@pytest.fixture
def traced(monkeypatch):
    """Compile everything, with a backend that changes nothing; return the layers compiled."""
    found = []

    def compile_traced(layer, *, dynamic):
        found.append(layer)
        layer._compiled_call_impl = torch.compile(
            layer._call_impl, backend="eager", dynamic=dynamic
        )

    monkeypatch.setattr(compiled_layers, "WORTH_COMPILING", 0.0)
    monkeypatch.setattr(compiled_layers, "_can_compile", lambda: True)
    monkeypatch.setattr(torch.nn.Module, "compile", compile_traced)
    yield found
    torch._dynamo.reset()


def trained(folder, work):
    model = load_model(folder)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(".layers.2." in name)
    blocks = np.random.default_rng(0).integers(0, 320, (16, 32)).astype(np.int32)
    # Two epochs: the second one takes the states below the trained layer from the disk.
    settings = TRAINING.model_copy(update={"num_tokens": 2 * blocks.size})
    tensors = optimize(model, blocks, settings, work_folder=work, first_trained=2).tensors
    return tensors, layers_of(model)


def test_a_training_on_kept_states_ends_in_the_same_bits(make_model, tmp_path, request):
    folder = make_model()
    plain, _ = trained(folder, tmp_path / "plain")
    compiled = request.getfixturevalue("traced")
    found, layers = trained(folder, tmp_path / "compiled")
    assert compiled == layers
    assert all(tensor.equal(found[name]) for name, tensor in plain.items())
    assert all(layer._compiled_call_impl is None for layer in layers)


def test_models_with_a_shared_trunk_get_the_same_scores(make_model, request):
    folder = make_model()
    models = [load_model(folder), load_model(folder)]
    with torch.no_grad():
        layers_of(models[1])[2].mlp.dense_h_to_4h.weight.mul_(1.5)
    draw = np.random.default_rng(0)
    documents = [draw.integers(1, 320, length).tolist() for length in (40, 3, 64, 25)]

    def scores():
        with Scorer(models) as scorer:
            assert scorer.num_shared_layers == 2
            return [
                np.concatenate(found) for found in scorer.score(documents, prefix=0, max_length=32)
            ]

    plain = scores()
    compiled = request.getfixturevalue("traced")
    found = scores()
    assert {id(layer) for layer in compiled} == {
        id(layer) for m in models for layer in layers_of(m)
    }
    assert all(map(np.array_equal, plain, found))
    assert all(layer._compiled_call_impl is None for layer in compiled)
