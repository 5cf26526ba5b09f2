"""Gates made of text: what their rows are, and what they do not depend on."""

import numpy as np
import pytest
import torch

from mdel_assets.errors import TrainingError
from mdel_assets.merging.mixtures.domain_gates import domain_gates, text_states
from mdel_assets_tests.conftest import write_split
from mdel_assets_tests.merging.mixtures.folders import NUM_LAYERS, WIDTH, blocks_of, load, make_seed

FAMILIES = ("llama", "qwen3", "olmo2")


def gates_of(seed, datasets, experts, *, general_expert=False, num_tokens=1024):
    return domain_gates(
        seed,
        datasets=datasets,
        experts=experts,
        general_expert=general_expert,
        num_tokens=num_tokens,
        block_size=32,
    )


def states_of_layers(seed, ids):
    """Return what each feed-forward reads, worked out from its layer's input and attention."""
    model = load(seed)
    given, attended = [], []
    for layer in model.model.layers:
        layer.register_forward_pre_hook(lambda m, inputs: given.append(inputs[0]))
        layer.self_attn.register_forward_hook(lambda m, i, outputs: attended.append(outputs[0]))
    with torch.inference_mode():
        model(input_ids=ids)
        states = []
        for layer, before, change in zip(model.model.layers, given, attended, strict=True):
            norm = layer.post_attention_layernorm
            behind = model.config.model_type == "olmo2"
            states.append(before + norm(change) if behind else norm(before + change))
    return [each.reshape(-1, WIDTH).double() for each in states]


@pytest.mark.parametrize("family", FAMILIES)
def test_states_are_those_that_each_feed_forward_reads(make_model, family):
    seed = make_seed(make_model, family)
    blocks = np.random.default_rng(0).integers(0, 320, (5, 24), dtype=np.int32)
    states = text_states(load(seed), blocks)
    expected = states_of_layers(seed, torch.from_numpy(blocks.astype(np.int64)))
    for layer in range(NUM_LAYERS):
        lengths = expected[layer].norm(dim=1, keepdim=True)
        direction = (expected[layer] / lengths).mean(dim=0)
        np.testing.assert_allclose(states.direction_LD[layer], direction, atol=1e-5)
        np.testing.assert_allclose(states.inverse_length_L[layer], (1 / lengths).mean(), rtol=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_row_is_the_mean_direction_twenty_states_long(make_model, datasets, family):
    """So that a state as long as most has 20 times its cosine for a logit."""
    seed = make_seed(make_model, family)
    gates = gates_of(seed, datasets, ["arxiv"])
    blocks = blocks_of(datasets["arxiv"], seed)
    assert blocks.shape == (32, 32)
    ids = torch.from_numpy(blocks.astype(np.int64))
    for layer, states in enumerate(states_of_layers(seed, ids)):
        lengths = states.norm(dim=1, keepdim=True)
        # The end-of-text of these models is their padding, whose embedding is zero.
        directions = (states / lengths)[lengths[:, 0] > 0]
        expected = torch.nn.functional.normalize(directions.mean(dim=0), dim=0)
        expected *= 20 * (1 / lengths[lengths > 0]).mean()
        torch.testing.assert_close(gates[layer, 0].double(), expected, rtol=1e-4, atol=1e-5)


def test_text_of_a_domain_is_likest_to_its_own_row(make_model, datasets):
    seed = make_seed(make_model, "llama")
    domains = list(datasets)
    gates = gates_of(seed, datasets, domains)
    tokenized = {d: gates_of(seed, datasets, [d], num_tokens=2048)[:, 0] for d in domains}
    for layer in range(NUM_LAYERS):
        unit = torch.nn.functional.normalize(gates[layer], dim=1)
        for number, domain in enumerate(domains):
            logits = unit @ tokenized[domain][layer]
            assert logits.argmax() == number


@pytest.mark.parametrize("family", FAMILIES)
def test_an_experts_row_does_not_depend_on_the_other_experts(make_model, datasets, family):
    seed = make_seed(make_model, family)
    all_three = gates_of(seed, datasets, ["github", "arxiv", "freelaw"])
    joined = gates_of(seed, datasets, ["freelaw", "arxiv"], general_expert=True)
    alone = gates_of(seed, {"arxiv": datasets["arxiv"]}, ["arxiv"])
    assert torch.equal(all_three[:, 1], joined[:, 1])
    assert torch.equal(all_three[:, 1], alone[:, 0])
    assert torch.equal(all_three[:, 2], joined[:, 0])
    assert not torch.equal(all_three[:, 0], all_three[:, 1])


def test_the_general_experts_row_is_of_all_domains_each_as_much(make_model, datasets):
    seed = make_seed(make_model, "llama")
    gates = gates_of(seed, datasets, ["github"], general_expert=True)
    assert gates.shape == (NUM_LAYERS, 2, WIDTH)
    model = load(seed)
    found = [text_states(model, blocks_of(folder, seed)) for folder in datasets.values()]
    direction = sum(states.direction_LD for states in found)
    direction /= np.linalg.norm(direction, axis=1, keepdims=True)
    length = 20 * np.mean([states.inverse_length_L for states in found], axis=0)
    np.testing.assert_allclose(gates[:, 1], length[:, None] * direction, rtol=1e-5, atol=1e-6)


def test_a_domain_with_less_text_than_a_block_is_refused(make_model, tmp_path):
    write_split(tmp_path / "train.parquet", ["def"], domain="github")
    seed = make_seed(make_model, "llama")
    with pytest.raises(TrainingError, match="fewer than one block"):
        gates_of(seed, {"github": tmp_path}, ["github"])
