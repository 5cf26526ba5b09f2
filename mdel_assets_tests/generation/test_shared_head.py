"""An output layer that experts have in common runs once for all, and only where that is right."""

import gc
import itertools
import weakref

import numpy as np
import pytest
import torch

from mdel_assets.generation import shared_head
from mdel_assets.generation.shared_head import SharedHead
from mdel_assets.generation.weighing import PosteriorWeights
from mdel_assets.training.model_files import load_model
from mdel_assets_tests.generation.speaking import prompts_of, speaker_of

IDS = torch.tensor([[5, 9, 2]])


def posterior(_):
    return PosteriorWeights(np.zeros(3), num_kept=None)


def products_of(speaker):
    """Return the numbers of rows that the output layer gets, as they come."""
    rows = []
    head = speaker.networks._head._own[0]
    head.register_forward_pre_hook(lambda _, inputs: rows.append(inputs[0].shape[:-1].numel()))
    return rows


def test_a_step_of_all_experts_is_one_product(experts):
    speaker = speaker_of(*experts, weigh=posterior)
    sequences = [speaker.start(prompt) for prompt in prompts_of(9, 4)]
    rows = products_of(speaker)
    speaker.step(sequences, [7, 8])
    assert rows == [3 * 2]


def test_a_product_gives_no_more_numbers_than_it_may(experts, monkeypatch):
    speaker = speaker_of(*experts, weigh=posterior)
    alike = speaker_of(*experts, weigh=posterior)
    sequences, others = ([each.start(p) for p in prompts_of(9, 4)] for each in (speaker, alike))
    rows = products_of(speaker)
    monkeypatch.setattr(shared_head, "_NUMBERS_AT_ONCE", 5 * 320)
    speaker.step(sequences, [7, 8])
    assert rows == [4, 2]
    monkeypatch.undo()
    alike.step(others, [7, 8])
    for one, other in zip(sequences, others, strict=True):
        torch.testing.assert_close(
            one.log_probabilities_V, other.log_probabilities_V, atol=1e-5, rtol=0
        )


def test_experts_with_heads_of_their_own_keep_them(experts, tmp_path):
    models = [load_model(folder, dtype="float32") for folder in experts]
    with torch.no_grad():
        models[2].get_output_embeddings().weight[3, 4] += 1
    assert SharedHead.of(models, IDS) is None
    assert SharedHead.of(models[:2], IDS) is not None


def test_logits_that_are_not_what_the_head_gives_are_left_to_the_models(make_model):
    folders = [make_model("cohere", num_key_value_heads=2, seed=seed) for seed in (0, 0)]
    models = [load_model(folder, dtype="float32") for folder in folders]
    assert models[0].logit_scale != 1
    assert SharedHead.of(models, IDS) is None
    alone, both = speaker_of(folders[0]), speaker_of(*folders)
    for prompt in prompts_of(9, 4):
        torch.testing.assert_close(
            both.start(prompt).log_probabilities_V,
            alone.start(prompt).log_probabilities_V,
            atol=1e-5,
            rtol=0,
        )


def test_put_back_models_give_their_own_logits(experts):
    models = [load_model(folder, dtype="float32") for folder in experts]
    before = [model(input_ids=IDS).logits for model in models]
    head = SharedHead.of(models, IDS)
    assert models[0](input_ids=IDS).logits.shape == (1, 3, 32)
    head.put_back()
    for model, logits in zip(models, before, strict=True):
        assert torch.equal(model(input_ids=IDS).logits, logits)


@pytest.mark.usefixtures("_no_collection")
def test_keys_and_values_are_freed_with_their_sequence(experts):
    speaker = speaker_of(*experts, weigh=posterior)
    sequences = [speaker.start(prompt) for prompt in prompts_of(9, 4)]
    speaker.step(sequences, [7, 8])
    rows = [[each.held.trunk, *each.held.models] for each in sequences]
    assert rows[0][0].held is rows[1][0].held
    held = {id(row.held): row.held for row in itertools.chain(*rows)}
    watched = [weakref.ref(cache) for cache in held.values()]
    del sequences, rows, held
    assert [reference() for reference in watched] == [None] * len(watched)


@pytest.fixture
def _no_collection():
    gc.collect()
    gc.disable()
    yield
    gc.enable()
