"""The fused loss and the kept prefix, against the model's own loss and gradients."""

import numpy as np
import pytest
import torch

from mdel_assets.training import fused_loss
from mdel_assets.training.fused_loss import LanguageModelLoss
from mdel_assets.training.model_files import load_model
from mdel_assets.training.prefix_cache import PrefixCache, has_dropout
from mdel_assets_tests.conftest import TRAINING

IDS = torch.arange(60).reshape(3, 20) * 7 % 320


def gradients(model):
    return {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("family", ["gpt_neox", "llama", "gpt2"])
@pytest.mark.parametrize("rows", [1, 7, 1000])
@pytest.mark.parametrize("as_on_a_gpu", [False, True])
def test_loss_and_gradients_are_the_models_own(make_model, family, rows, as_on_a_gpu, monkeypatch):
    monkeypatch.setattr(fused_loss, "_LOGITS_PER_SLICE", {"cpu": rows * 320})
    if as_on_a_gpu:
        monkeypatch.setattr(fused_loss, "_turned_in_cache", fused_loss._turned_in_one_kernel)
    model = load_model(make_model(family))
    own = model(input_ids=IDS, labels=IDS).loss
    own.backward()
    expected = gradients(model)
    model.zero_grad()
    loss = LanguageModelLoss(model)
    assert loss.is_fused
    found = loss(IDS)["loss"]
    (3.0 * found).backward()
    assert found.item() == pytest.approx(own.item(), rel=1e-6)
    ours = gradients(model)
    assert ours.keys() == expected.keys()
    for name, gradient in expected.items():
        torch.testing.assert_close(ours[name], 3.0 * gradient, rtol=1e-4, atol=1e-5)


def test_an_output_layer_with_a_bias_is_trained_too(make_model):
    model = load_model(make_model())
    model.lm_head.bias = torch.nn.Parameter(torch.linspace(-1, 1, 320))
    own = model(input_ids=IDS, labels=IDS).loss
    own.backward()
    expected = gradients(model)
    model.zero_grad()
    LanguageModelLoss(model)(IDS)["loss"].backward()
    torch.testing.assert_close(model.lm_head.bias.grad, expected["lm_head.bias"])


def test_a_model_that_scales_its_logits_keeps_its_own_loss(make_model):
    model = load_model(make_model("cohere", logit_scale=0.1, pad_token_id=0))
    loss = LanguageModelLoss(model)
    assert not loss.is_fused
    own = model(input_ids=IDS, labels=IDS).loss
    assert loss(IDS)["loss"].item() == pytest.approx(own.item())


def test_in_half_precision_the_loss_is_near_and_gradients_point_the_same_way(make_model):
    model = load_model(make_model())
    loss = LanguageModelLoss(model)
    exact = loss(IDS)["loss"]
    exact.backward()
    expected = torch.cat([g.flatten() for g in gradients(model).values()])
    model.zero_grad()
    with torch.autocast("cpu", torch.bfloat16):
        rounded = loss(IDS)["loss"]
    rounded.backward()
    found = torch.cat([g.flatten() for g in gradients(model).values()])
    assert rounded.item() != exact.item()
    assert rounded.item() == pytest.approx(exact.item(), rel=2e-3)
    assert torch.cosine_similarity(found, expected, dim=0) > 0.999


@pytest.mark.parametrize("family", ["gpt_neox", "llama"])
def test_kept_states_give_the_same_bits_and_run_no_frozen_layer(make_model, family, tmp_path):
    model = load_model(make_model(family))
    name = {"gpt_neox": "gpt_neox.layers", "llama": "model.layers"}[family]
    for key, parameter in model.named_parameters():
        parameter.requires_grad_(f"{name}.2." in key)
    loss = LanguageModelLoss(model)
    plain = loss(IDS)["loss"]
    plain.backward()
    expected = gradients(model)
    calls = []
    model.get_submodule(f"{name}.0.mlp").register_forward_hook(lambda *_: calls.append(0))
    loss.prefix = PrefixCache(
        model, layers_name=name, first_trained=2, shape_NT=(5, 20), folder=tmp_path
    )
    for blocks, num_calls in (([4, 0, 2], 1), ([4, 0, 2], 1), ([1, 3, 2], 2)):
        model.zero_grad()
        found = loss(IDS, torch.tensor(blocks))["loss"]
        found.backward()
        assert len(calls) == num_calls
        assert found.item() == plain.item()
        assert all(torch.equal(g, expected[n]) for n, g in gradients(model).items())
    # Another process finds what was computed.
    again = PrefixCache(model, layers_name=name, first_trained=2, shape_NT=(5, 20), folder=tmp_path)
    loss.prefix = again
    assert loss(IDS, torch.tensor([0, 4, 2]))["loss"].item() != plain.item()
    assert loss(IDS, torch.tensor([4, 3, 2]))["loss"].item() == plain.item()
    assert len(calls) == 2
    assert LanguageModelLoss(model)(IDS)["loss"].item() == plain.item()


def test_a_model_with_dropout_keeps_no_states(make_model):
    assert has_dropout(load_model(make_model("gpt2")))
    assert has_dropout(load_model(make_model("gpt_neox", attention_dropout=0.1)))
    assert not has_dropout(load_model(make_model("llama")))


def test_training_with_kept_states_ends_in_the_same_weights(make_model, tmp_path):
    """Batches of one block, so that no product depends on how blocks are batched."""
    from mdel_assets.training.optimize import optimize

    blocks = np.random.default_rng(0).integers(0, 320, (6, 32)).astype(np.int32)
    ended = []
    for name, is_kept in (("kept", True), ("computed", False)):
        model = load_model(make_model(seed=3))
        for key, parameter in model.named_parameters():
            parameter.requires_grad_(".layers.2." in key)
        settings = TRAINING.model_copy(
            update={"cache_prefix": is_kept, "batch_size": 1, "num_tokens": 32 * 18}
        )
        trained = optimize(model, blocks, settings, work_folder=tmp_path / name, first_trained=2)
        assert (tmp_path / name / "prefix.float32").exists() == is_kept
        ended.append(trained.tensors)
    for name, tensor in ended[0].items():
        assert torch.equal(tensor, ended[1][name]), name
