"""Weights kept in half precision give fp32's figures to the bit, in half the memory."""

import numpy as np
import pytest
import torch

from mdel_assets.experiment.evaluation import Evaluation
from mdel_assets.scoring.beside import load_beside
from mdel_assets.scoring.half_precision import halve_linear_layers
from mdel_assets.scoring.loading import load_for_scoring
from mdel_assets.scoring.log_probabilities import token_log_probabilities
from mdel_assets.training.expert import train_expert
from mdel_assets.training.model_files import load_model
from mdel_assets.training.stored_precision import load_in_fp32, load_to_compute_in_fp32
from mdel_assets.training.trained_model import save_trained
from mdel_assets_tests.conftest import TRAINING, make_document, write_split
from mdel_assets_tests.families import FAMILIES

IDS = torch.arange(48).reshape(2, 24) * 5 % 320


def num_weight_bytes(model):
    return sum(p.numel() * p.element_size() for p in model.parameters())


@pytest.mark.parametrize(
    "family",
    [
        *("gpt_neox", "llama", "gpt2", "qwen3", "gemma2", "opt", "olmo2"),
        # Two multiply by a layer's weights themselves, the last halves some for evaluation.
        *(pytest.param(family, marks=pytest.mark.in_use) for family in ("mamba", "jamba", "rwkv")),
    ],
)
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_logits_and_scores_are_those_of_weights_in_fp32(make_model, family, dtype):
    more = {"head_dim": 16} if family in ("qwen3", "gemma2") else {}
    more |= {"num_key_value_heads": 2} if family in ("qwen3", "gemma2", "llama", "olmo2") else {}
    more |= FAMILIES.get(family, {})
    more |= {"rescale_every": 1} if family == "rwkv" else {}
    folder = make_model(family, dtype=dtype, **more)
    wide, narrow = load_in_fp32(folder), load_to_compute_in_fp32(folder)
    with torch.inference_mode():
        expected, found = (model(input_ids=IDS).logits for model in (wide, narrow))
    assert found.dtype == torch.float32
    assert torch.equal(found, expected)
    documents = [[7, 9, 11] * 10, list(range(50))]
    expected, found = (
        token_log_probabilities(model, documents, prefix=0, max_length=16)
        for model in (wide, narrow)
    )
    assert all(np.array_equal(a, b) for a, b in zip(found, expected, strict=True))
    # The one multiplies by its weights' transposes, the other scales its embeddings in its own way.
    if family not in ("gpt2", "gemma2", "mamba", "jamba"):
        assert num_weight_bytes(narrow) < 0.6 * num_weight_bytes(wide)
    for model in (wide, narrow):
        halve_linear_layers(model)
    with torch.inference_mode():
        expected, found = (model(input_ids=IDS).logits for model in (wide, narrow))
    assert torch.equal(found, expected)


def test_a_model_that_is_stored_in_fp32_is_loaded_as_it_is(make_model):
    model = load_to_compute_in_fp32(make_model())
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert type(model.get_output_embeddings()) is torch.nn.Linear


@pytest.mark.parametrize("settings", [{}, {"dtype": "bfloat16"}, {"gradient_checkpointing": True}])
@pytest.mark.parametrize("layers", [(1,), ("embeddings", "head"), "all"])
def test_a_training_comes_to_the_same_bits(make_model, tmp_path, monkeypatch, settings, layers):
    texts = [make_document("ArXiv", number)["text"] for number in range(60)]
    for split in ("train", "validation_domain", "validation_pile"):
        write_split(tmp_path / f"{split}.parquet", texts, domain="arxiv")
    training = TRAINING.model_copy(
        update={"num_tokens": 1024, "trained_layers": layers, **settings}
    )
    seed = make_model(dtype="float16")
    results = []
    for name in ("narrow", "wide"):
        if name == "wide":
            monkeypatch.setattr(
                "mdel_assets.training.stored_precision._stored_half", lambda folder: None
            )
        (tmp_path / name).mkdir()
        result = train_expert(
            training,
            seed_folder=seed,
            dataset_folder=tmp_path,
            folder=tmp_path / name,
            work_folder=tmp_path / "work" / name,
        )
        weights = (tmp_path / name / "model.safetensors").read_bytes()
        curves = {key: points for key, points in result.history.curves.items() if "tok" not in key}
        results.append((weights, result.losses_before, result.losses_after, curves))
    assert results[0] == results[1]


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("store", ["full", "delta"])
def test_a_model_beside_another_takes_what_was_trained(make_model, tmp_path, dtype, store):
    seed = make_model(dtype=dtype)
    first = load_to_compute_in_fp32(seed)
    moved = {
        name: parameter.float() + 0.25
        for name, parameter in first.named_parameters()
        if ".layers.2." in name
    }
    folder = tmp_path / "expert"
    folder.mkdir()
    save_trained(moved, folder, seed_folder=seed, store=store)
    model, num_bytes = load_beside(first, seed, folder)
    assert (
        num_bytes
        == sum(
            tensor.numel() * (2 if dtype == "float16" and tensor.dim() > 1 else 4)
            for tensor in moved.values()
        )
        or dtype == "float16"
    )
    alone = load_to_compute_in_fp32(folder)
    with torch.inference_mode():
        assert torch.equal(model(input_ids=IDS).logits, alone(input_ids=IDS).logits)
        assert not torch.equal(first(input_ids=IDS).logits, alone(input_ids=IDS).logits)
    shared = [
        name
        for (name, ours), (_, theirs) in zip(
            first.named_parameters(), model.named_parameters(), strict=True
        )
        if ours is theirs
    ]
    assert set(shared) == {name for name, _ in first.named_parameters()} - moved.keys()


def test_models_of_other_configurations_are_not_loaded_beside(make_model):
    seed = make_model()
    first = load_to_compute_in_fp32(seed)
    assert load_beside(first, seed, make_model(rotary_pct=0.5)) is None
    assert load_beside(first, seed, make_model(hidden_size=64)) is None
    assert load_beside(first, seed, make_model("llama")) is None
    tied, other = (make_model(tie_word_embeddings=True, seed=number) for number in range(2))
    model, _ = load_beside(load_to_compute_in_fp32(tied), tied, other)
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight
    with torch.inference_mode():
        alone = load_model(other, dtype="float32")(input_ids=IDS).logits
        assert torch.equal(model(input_ids=IDS).logits, alone)


@pytest.mark.in_use
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_layers_whose_weights_others_read_are_scored_in_fp32(make_model, dtype):
    folder = make_model("mamba", dtype=dtype, **FAMILIES["mamba"])
    model = load_for_scoring(folder, Evaluation(dtype="bfloat16", max_length=16))
    mixer = model.backbone.layers[0].mixer
    assert mixer.dt_proj.weight.dtype == torch.float32
    assert mixer.in_proj.weight.dtype == torch.bfloat16
    exact = load_model(folder, dtype="float32")
    documents = [[7, 9, 11] * 10, list(range(50))]
    rounded, expected = (
        np.concatenate(token_log_probabilities(each, documents, prefix=0, max_length=16)).sum()
        for each in (model, exact)
    )
    assert rounded == pytest.approx(expected, rel=0.01)
