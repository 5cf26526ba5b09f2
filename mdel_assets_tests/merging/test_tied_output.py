"""Models whose output layer is their embedding, stored once, twice, or untied beside tied ones."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from mdel_assets.errors import MergeError
from mdel_assets_tests.merging.folders import merge, merged_tensors, recipe_of

LINEAR = recipe_of("linear")
EMBEDDING, OUTPUT = "model.embed_tokens.weight", "lm_head.weight"


def rewritten(folder, target, *, is_tied, output=None):
    """Copy a model folder; let its file have an output layer, and its configuration say so."""
    shutil.copytree(folder, target)
    config = json.loads((target / "config.json").read_text())
    (target / "config.json").write_text(json.dumps(config | {"tie_word_embeddings": is_tied}))
    tensors = load_file(target / "model.safetensors")
    if output is not None:
        tensors[OUTPUT] = output(tensors[EMBEDDING])
    save_file(tensors, target / "model.safetensors", metadata={"format": "pt"})
    return target


@pytest.fixture
def models(make_model, tmp_path):
    """Two tied models, and the second one with a copy of its embedding, tied and untied."""
    first, second = (make_model("llama", seed=n, tie_word_embeddings=True) for n in (0, 1))
    assert OUTPUT not in load_file(first / "model.safetensors")
    return {
        "first": first,
        "second": second,
        "copied": rewritten(second, tmp_path / "copied", is_tied=True, output=torch.clone),
        "untied": rewritten(second, tmp_path / "untied", is_tied=False, output=torch.clone),
    }


@pytest.mark.in_use
@pytest.mark.parametrize("other", ["copied", "untied"])
def test_a_copy_of_the_embedding_is_no_tensor_of_its_own(models, tmp_path, other):
    merge(tmp_path, LINEAR, models["first"], models["second"], out="expected")
    merge(tmp_path, LINEAR, models["first"], models[other])
    merged, expected = merged_tensors(tmp_path), merged_tensors(tmp_path, "expected")
    assert merged.keys() == expected.keys()
    assert all(torch.equal(merged[name], expected[name]) for name in merged)


@pytest.mark.in_use
@pytest.mark.parametrize("other", ["first", "copied"])
def test_what_comes_out_untied_has_an_output_layer_of_all(models, tmp_path, other):
    merge(tmp_path, LINEAR, models["untied"], models[other])
    own = load_file(models["untied"] / "model.safetensors")
    theirs = load_file(models[other] / "model.safetensors")
    merged = merged_tensors(tmp_path)
    torch.testing.assert_close(merged[OUTPUT], (own[OUTPUT] + theirs[EMBEDDING]) / 2)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert torch.equal(loaded.get_output_embeddings().weight, merged[OUTPUT])
    assert not loaded.config.tie_word_embeddings


@pytest.mark.in_use
@pytest.mark.parametrize("is_tied", [True, False])
def test_an_output_layer_of_its_own_beside_a_tied_one_is_named(models, tmp_path, is_tied):
    other = rewritten(
        models["second"], tmp_path / "other", is_tied=is_tied, output=lambda t: t + 1.0
    )
    with pytest.raises(MergeError) as refused:
        merge(tmp_path, LINEAR, models["first"], other)
    assert (
        "These models cannot be merged: model-0 uses its embedding as output layer, but model-1 "
        "has a lm_head.weight that is not a copy of its embedding. Merge models with the same"
    ) in str(refused.value)
