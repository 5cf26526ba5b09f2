"""Gates that are trained: they alone move, they learn, and an interrupted training goes on."""

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from mdel_assets.errors import TrainingInterruptedError
from mdel_assets.experiment.mixtures import GateTraining
from mdel_assets.line.conditions import NO_CONDITIONS, Conditions
from mdel_assets.merging.mixtures.trained_gates import balance_load, only_gates_move, train_gates
from mdel_assets.training.fused_loss import LanguageModelLoss
from mdel_assets.training.optimize import validation_loss
from mdel_assets_tests.conftest import TRAINING
from mdel_assets_tests.merging.mixtures.folders import (
    NUM_LAYERS,
    SEEDS,
    WIDTH,
    blocks_of,
    experts_of,
    load,
    make_seed,
    mix,
)


def train(folder, datasets, *, steps=4, stops=False, **settings):
    return train_gates(
        folder,
        GateTraining(num_steps=steps, **settings),
        datasets=datasets,
        expert_training=TRAINING,
        work_folder=folder.with_name(f"{folder.name}-work"),
        conditions=Conditions(max_seconds=0.0) if stops else NO_CONDITIONS,
    )


@pytest.mark.parametrize("family", SEEDS)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_nothing_but_the_gates_moves(make_model, datasets, tmp_path, family, dtype):
    seed = make_seed(make_model, family, dtype=dtype)
    mixed = experts_of(seed, tmp_path, 3, layers=[1, 2])
    mix(seed, mixed, tmp_path / "mixture", router="trained")
    # Loaded tensors lie in the file, which is written to.
    before = {
        name: tensor.clone()
        for name, tensor in load_file(tmp_path / "mixture" / "model.safetensors").items()
    }
    train(tmp_path / "mixture", datasets)
    after = load_file(tmp_path / "mixture" / "model.safetensors")
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    gates = {name for name in before if name.endswith(".gate.weight")}
    assert changed == gates
    assert len(gates) == (2 if family == "qwen3" else NUM_LAYERS)
    assert {tensor.dtype for tensor in after.values()} == {getattr(torch, dtype)}
    load(tmp_path / "mixture")


def test_an_interrupted_training_ends_where_an_uninterrupted_one_does(
    make_model, datasets, tmp_path
):
    seed = make_seed(make_model, "qwen3")
    experts = experts_of(seed, tmp_path, 3)
    for name in ("whole", "cut"):
        mix(seed, experts, tmp_path / name, router="trained")
    train(tmp_path / "whole", datasets)
    built = (tmp_path / "cut" / "model.safetensors").read_bytes()
    with pytest.raises(TrainingInterruptedError, match="step 1 of 4"):
        train(tmp_path / "cut", datasets, stops=True)
    assert (tmp_path / "cut" / "model.safetensors").read_bytes() == built
    train(tmp_path / "cut", datasets)
    whole, cut = (load_file(tmp_path / n / "model.safetensors") for n in ("whole", "cut"))
    assert all(torch.equal(whole[name], cut[name]) for name in whole)


def test_trained_gates_predict_the_text_better(make_model, datasets, tmp_path):
    seed = make_seed(make_model, "qwen3")
    mixture = tmp_path / "mixture"
    gates = torch.randn(NUM_LAYERS, 4, WIDTH, generator=torch.Generator().manual_seed(1))
    mix(seed, experts_of(seed, tmp_path, 4), mixture, gates=gates)
    blocks = np.concatenate([blocks_of(folder, seed) for folder in datasets.values()])

    def loss():
        return validation_loss(LanguageModelLoss(load(mixture)), blocks, batch_size=8)

    before = loss()
    train(mixture, datasets, steps=40, load_balancing=0.0)
    assert loss() < before - 0.05


@pytest.mark.parametrize("family", ["llama", "qwen3", "olmo2"])
def test_the_loss_in_training_holds_the_load_balancing_loss(make_model, tmp_path, family):
    """For even loads that is the number of experts a token goes through, whatever the family."""
    seed = make_seed(make_model, family)
    mix(seed, experts_of(seed, tmp_path, 4), tmp_path / "mixture", experts_per_token=2)
    ids = torch.arange(32)[None] * 7 % 320
    losses = {}
    for weight in (0.0, 0.5):
        model = load(tmp_path / "mixture")
        only_gates_move(model)
        balance_load(model, weight=weight)
        loss = LanguageModelLoss(model)
        model.train()
        losses[weight] = loss(ids)["loss"].item()
    # Gates of zeros give every expert a probability of 1/4; two are chosen: 4 * 2 * 1/4.
    assert losses[0.5] - losses[0.0] == pytest.approx(0.5 * 2.0, abs=1e-4)
