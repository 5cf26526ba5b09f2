"""The fused loss, against the model's own loss and gradients."""

import pytest
import torch

from mdel_assets.training import fused_loss
from mdel_assets.training.fused_loss import LanguageModelLoss
from mdel_assets.training.model_files import load_model
from mdel_assets_tests.families import FAMILIES

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


@pytest.mark.in_use
@pytest.mark.parametrize("family", ["mixtral", "jamba"])
def test_a_routers_auxiliary_loss_is_trained_on_and_is_part_of_no_other_loss(make_model, family):
    options = {"output_router_logits": True, "router_aux_loss_coef": 0.1}
    model = load_model(make_model(family, **FAMILIES[family], **options))
    own = model(input_ids=IDS, labels=IDS)
    predictions = torch.nn.functional.cross_entropy(
        own.logits[:, :-1].flatten(0, 1), IDS[:, 1:].flatten()
    )
    assert own.aux_loss > 0.5
    assert own.loss.item() == pytest.approx((predictions + 0.1 * own.aux_loss).item())
    loss = LanguageModelLoss(model)
    assert loss(IDS)["loss"].item() == pytest.approx(predictions.item(), rel=1e-6)
    model.train()
    whole = loss(IDS)["loss"]
    assert whole.item() == pytest.approx(own.loss.item(), rel=1e-6)
    own.loss.backward()
    expected = gradients(model)
    model.zero_grad()
    whole.backward()
    for name, gradient in gradients(model).items():
        torch.testing.assert_close(gradient, expected[name])


def test_a_mixture_without_router_logits_is_fused(make_model):
    loss = LanguageModelLoss(load_model(make_model("mixtral", **FAMILIES["mixtral"])))
    assert loss.can_keep_prefix
