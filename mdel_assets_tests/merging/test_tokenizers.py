"""Merges of models with different tokenizers, against mergekit's own runs on the same files."""

import json
import shutil
from pathlib import Path

import click.testing
import pytest
import torch
import transformers
import yaml
from mergekit.scripts.multimerge import main as multimerge
from safetensors.torch import load_file

from mdel_assets.merging.members import members_of
from mdel_assets.merging.one_off import one_off_recipes
from mdel_assets.merging.sources import MergeInput
from mdel_assets.merging.streaming import merge_models
from mdel_assets_tests.merging.speakers import (
    END,
    assert_same,
    ids_of,
    merge_ours,
    merge_theirs,
    placed,
    save_model,
)

RECIPES = {
    "union of two with other added tokens": """
        merge_method: linear
        models: [{model: B, parameters: {weight: 0.3}}, {model: C, parameters: {weight: 0.9}}]
        tokenizer_source: union
    """,
    "union of three whose base lacks a token that two have": """
        merge_method: task_arithmetic
        base_model: A
        models: [{model: B, parameters: {weight: 0.5}}, {model: C, parameters: {weight: 0.25}}]
        tokenizer_source: union
    """,
    "mean of a token of two models for the third": """
        merge_method: linear
        models: [{model: A}, {model: B}, {model: C}]
        parameters: {weight: 1.0}
        tokenizer_source: union
    """,
    "union of two BPE vocabularies": """
        merge_method: linear
        models: [{model: A, parameters: {weight: 0.25}}, {model: D, parameters: {weight: 0.75}}]
        tokenizer_source: union
    """,
    "union of two BPE vocabularies with task vectors": """
        merge_method: task_arithmetic
        base_model: D
        models: [{model: C, parameters: {weight: 0.75}}]
        tokenizer: {source: union}
    """,
    "the base's": """
        merge_method: ties
        base_model: A
        models:
          - {model: B, parameters: {weight: 0.5, density: 1.0}}
          - {model: D, parameters: {weight: 0.5, density: 1.0}}
        tokenizer_source: base
    """,
    "one model's": """
        merge_method: linear
        models: [{model: A, parameters: {weight: 0.25}}, {model: C, parameters: {weight: 0.75}}]
        tokenizer_source: C
    """,
    "the base's without tokens that have no row": """
        merge_method: task_arithmetic
        base_model: E
        models: [{model: B, parameters: {weight: 0.5}}]
        tokenizer_source: base
    """,
    "union with a model's token that has no row": """
        merge_method: linear
        models: [{model: B, parameters: {weight: 0.25}}, {model: E, parameters: {weight: 0.75}}]
        tokenizer_source: union
    """,
    "embeddings of tokens, in each way": """
        merge_method: linear
        models: [{model: B, parameters: {weight: 0.25}}, {model: C, parameters: {weight: 0.75}}]
        tokenizer:
          source: union
          tokens:
            "<|im_end|>": {source: C, force: true}
            "<|im_start|>": {source: {kind: zero}}
            "<|tool|>": {source: {kind: model_token, model: B, token: "<|im_start|>"}}
            hello: {source: {kind: model_token, model: C, token_id: 7}, force: true}
            "<|new|>": {source: {kind: model_token, model: B, token: the}}
            "<|blank|>": {source: {kind: zero}}
    """,
    "padding": """
        merge_method: linear
        models: [{model: B, parameters: {weight: 0.25}}, {model: C, parameters: {weight: 0.75}}]
        tokenizer: {source: union, pad_to_multiple_of: 32}
    """,
    "tied embeddings": """
        merge_method: linear
        models: [{model: T, parameters: {weight: 0.25}}, {model: U, parameters: {weight: 0.75}}]
        tokenizer: {source: union, pad_to_multiple_of: 8}
    """,
    "tied embeddings of two BPE vocabularies": """
        merge_method: linear
        models: [{model: U, parameters: {weight: 0.25}}, {model: V, parameters: {weight: 0.75}}]
        tokenizer_source: union
    """,
    "union of stacked models": """
        merge_method: passthrough
        slices:
          - sources: [{model: A, layer_range: [0, 2]}]
          - sources: [{model: C, layer_range: [1, 3]}]
        tokenizer_source: union
    """,
    "union in slices that merge": """
        merge_method: linear
        slices:
          - sources:
              - {model: B, layer_range: [0, 2], parameters: {weight: 0.3}}
              - {model: D, layer_range: [1, 3], parameters: {weight: 0.9}}
          - sources: [{model: A, layer_range: [2, 3]}, {model: C, layer_range: [0, 1]}]
        parameters: {weight: 1.0}
        tokenizer: {source: union}
    """,
}
# In its sums of models in half precision, mergekit rounds more often.
ROUNDING = {"float16": {"rtol": 2e-3, "atol": 2e-4}, "bfloat16": {"rtol": 1.6e-2, "atol": 1e-3}}


@pytest.mark.parametrize("name", RECIPES)
def test_tokenizers_are_united_as_mergekit_does_to_the_bit(name, speakers, tmp_path):
    content = placed(yaml.safe_load(RECIPES[name]), speakers) | {"dtype": "float32"}
    assert_same(merge_ours(content, tmp_path), merge_theirs(content, tmp_path))


HALF = [
    "union of two with other added tokens",
    "union of three whose base lacks a token that two have",
    "union of two BPE vocabularies",
    "embeddings of tokens, in each way",
    "tied embeddings of two BPE vocabularies",
    "union of stacked models",
]


@pytest.mark.parametrize("name", HALF)
@pytest.mark.parametrize("out_dtype", ["float16", "bfloat16"])
def test_stored_in_half_precision_they_are_mergekits_to_the_bit(
    name, out_dtype, speakers, tmp_path
):
    content = placed(yaml.safe_load(RECIPES[name]), speakers)
    content |= {"dtype": "float32", "out_dtype": out_dtype}
    assert_same(merge_ours(content, tmp_path), merge_theirs(content, tmp_path))


@pytest.mark.parametrize("dtype", ROUNDING)
@pytest.mark.parametrize("name", ["mean of a token of two models for the third", "padding"])
def test_what_mergekit_computes_in_half_precision_is_equal_up_to_rounding(
    name, dtype, speakers, tmp_path
):
    content = placed(yaml.safe_load(RECIPES[name]), speakers) | {"dtype": dtype}
    assert_same(
        merge_ours(content, tmp_path), merge_theirs(content, tmp_path), close=ROUNDING[dtype]
    )


def test_padding_of_two_bpe_vocabularies_is_their_mean(speakers, tmp_path):
    """mergekit puts new tokens in a random order, so its sum over all rows has another order."""
    content = placed(yaml.safe_load(RECIPES["union of two BPE vocabularies"]), speakers)
    del content["tokenizer_source"]
    content |= {"dtype": "float32", "tokenizer": {"source": "union", "pad_to_multiple_of": 64}}
    close = {"rtol": 1e-5, "atol": 1e-8}
    assert_same(merge_ours(content, tmp_path), merge_theirs(content, tmp_path), close=close)


@pytest.mark.parametrize(
    "name", ["union of two BPE vocabularies", "embeddings of tokens, in each way", "padding"]
)
def test_neither_pieces_nor_threads_change_the_bytes(name, speakers, tmp_path):
    content = placed(yaml.safe_load(RECIPES[name]), speakers)
    (tmp_path / "recipe.yml").write_text(yaml.safe_dump(content))
    recipe = one_off_recipes([], tmp_path / "recipe.yml").final
    members = members_of(recipe, name="test", domains=[], random_numbers=[])
    inputs = [MergeInput(m.name, Path(m.name), m.parameters) for m in members]
    found = []
    # Pieces of 7 numbers end inside rows of 16.
    for number, (piece, num_threads) in enumerate([(1 << 19, 1), (7, 1), (37, 4)]):
        out = tmp_path / str(number)
        out.mkdir()
        merge_models(
            recipe,
            inputs,
            out,
            members=members,
            model_folder=inputs[0].folder,
            num_threads=num_threads,
            largest_piece=piece,
        )
        found.append((out / "model.safetensors").read_bytes())
    assert found[0] == found[1] == found[2]


def test_the_base_keeps_its_ids_and_special_tokens(speakers, tmp_path):
    content = placed(yaml.safe_load(RECIPES["union of two BPE vocabularies"]), speakers)
    out = merge_ours(content, tmp_path)
    ours = ids_of(out)
    kept = ids_of(speakers["A"])
    assert {token: ours[token] for token in kept} == kept
    assert ours.keys() == kept.keys() | ids_of(speakers["D"]).keys()
    tokenizer = transformers.AutoTokenizer.from_pretrained(out)
    before = transformers.AutoTokenizer.from_pretrained(speakers["A"])
    assert tokenizer("the cat sat")["input_ids"] == before("the cat sat")["input_ids"]
    assert tokenizer.decode(tokenizer("a dog, the cat")["input_ids"]) == "a dog, the cat"
    assert tokenizer("<|im_end|>")["input_ids"] == [ours["<|im_end|>"]]
    model, told = transformers.AutoModelForCausalLM.from_pretrained(out, output_loading_info=True)
    assert not told["missing_keys"]
    assert not told["mismatched_keys"]
    assert model.config.vocab_size == model.get_input_embeddings().weight.shape[0] == len(ours)


def test_tied_embeddings_stay_tied(speakers, tmp_path):
    content = placed(yaml.safe_load(RECIPES["tied embeddings"]), speakers)
    out = merge_ours(content, tmp_path)
    assert "lm_head.weight" not in load_file(out / "model.safetensors")
    model = transformers.AutoModelForCausalLM.from_pretrained(out)
    assert model.lm_head.weight is model.model.embed_tokens.weight
    assert model.lm_head.weight.shape[0] == model.config.vocab_size
    assert model.config.vocab_size % 8 == 0


def test_a_tied_and_an_untied_model_unite(speakers, tmp_path):
    content = placed(yaml.safe_load(RECIPES["union of two BPE vocabularies"]), speakers)
    content["models"][1]["model"] = str(speakers["V"])
    out = merge_ours(content | {"dtype": "float32"}, tmp_path)
    merged = load_file(out / "model.safetensors")
    first, second = (load_file(speakers[name] / "model.safetensors") for name in "AV")
    row, one, other = (ids_of(folder)["a"] for folder in (out, speakers["A"], speakers["V"]))
    shared = "model.embed_tokens.weight"
    for name in ("lm_head.weight", shared):
        expected = 0.25 * first[name][one] + 0.75 * second[shared][other]
        torch.testing.assert_close(merged[name][row], expected, rtol=0, atol=1e-7)


def test_the_ids_of_special_tokens_are_those_of_the_models_tokenizer(speakers, tmp_path):
    """Under another model's tokenizer, the ids of the configuration would mean other tokens."""
    own = tmp_path / "own"
    shutil.copytree(speakers["C"], own)
    end = ids_of(own)["<|im_end|>"]
    for name in ("config.json", "generation_config.json"):
        content = json.loads((own / name).read_text())
        (own / name).write_text(json.dumps(content | {"eos_token_id": end, "bos_token_id": None}))
    recipe = placed(yaml.safe_load(RECIPES["one model's"]), speakers | {"C": own})
    out = merge_ours(recipe, tmp_path)
    for name in ("config.json", "generation_config.json"):
        assert json.loads((out / name).read_text())["eos_token_id"] == end
    # Not every model has a configuration of its generation.
    (own / "generation_config.json").unlink()
    out = merge_ours(recipe, tmp_path, "again")
    assert json.loads((out / "generation_config.json").read_text())["eos_token_id"] == end
    assert json.loads((speakers["A"] / "config.json").read_text())["eos_token_id"] == 0


def test_nothing_is_left_of_a_tokenizer_that_is_replaced(speakers, tmp_path):
    own = tmp_path / "own"
    shutil.copytree(speakers["A"], own)
    for name in ("vocab.json", "tekken.json", "sentencepiece.model", "spm.model"):
        (own / name).write_text("{}")
    (own / "notes.txt").write_text("kept")
    content = yaml.safe_load(RECIPES["union of two BPE vocabularies"])
    content = placed(content | {"tokenizer_source": "D"}, speakers | {"A": own})
    out = merge_ours(content | {"dtype": "float32"}, tmp_path)
    assert transformers.AutoTokenizer.from_pretrained(out).chat_template is None
    names = {path.name for path in out.iterdir()}
    assert names == {
        *("model.safetensors", "config.json", "generation_config.json", "notes.txt"),
        *("tokenizer.json", "tokenizer_config.json"),
        *("mergekit_config.yml", "README.md", "record.json"),
    }


STAGES = """
name: both
merge_method: task_arithmetic
base_model: B
models: [{model: C, parameters: {weight: 0.5}}]
tokenizer: {source: union, tokens: {"<|new|>": {source: {kind: model_token, model: C, token: the}}}}
dtype: float32
---
merge_method: task_arithmetic
base_model: A
models: [{model: both, parameters: {weight: 0.25}}]
tokenizer_source: union
dtype: float32
"""


def test_two_stages_with_tokenizers_are_mergekits_to_the_bit(speakers, tmp_path):
    documents = placed(list(yaml.safe_load_all(STAGES)), speakers)
    ours = merge_ours(documents, tmp_path)
    out, between = tmp_path / "peer", tmp_path / "between"
    words = [str(tmp_path / "ours.yml"), "--out-path", str(out), "-I", str(between)]
    done = click.testing.CliRunner().invoke(multimerge, words)
    assert done.exit_code == 0, done.output
    assert_same(ours, out)
    assert "<|new|>" in ids_of(ours)


@pytest.mark.parametrize("name", ["embeddings of tokens, in each way", "one model's"])
def test_a_union_is_repeated_by_the_recipe_that_it_writes(name, speakers, tmp_path):
    content = placed(yaml.safe_load(RECIPES[name]), speakers)
    first = merge_ours(content, tmp_path, "first")
    written = list(yaml.safe_load_all((first / "mergekit_config.yml").read_text()))
    again = merge_ours(written, tmp_path, "again")
    for path in first.iterdir():
        if path.name not in ("record.json", "README.md"):
            assert path.read_bytes() == (again / path.name).read_bytes(), path.name
    assert str(speakers["C"].parent) not in (first / "README.md").read_text()


def test_models_beside_the_recipe_are_found_in_its_tokenizer(speakers, tmp_path):
    for name in "BC":
        (tmp_path / name).symlink_to(speakers[name])
    content = yaml.safe_load(RECIPES["embeddings of tokens, in each way"])
    near = merge_ours(content, tmp_path, "near")
    far = merge_ours(placed(content, speakers), tmp_path, "far")
    names = ("model.safetensors", "tokenizer.json", "config.json")
    assert all((near / name).read_bytes() == (far / name).read_bytes() for name in names)


def test_special_tokens_without_a_row_are_gone_when_it_is_loaded_again(tmp_path):
    """The base has a token for padding, and another one, for which it has no row."""
    base, other = tmp_path / "base", tmp_path / "other"
    save_model(base, seed=0, text="cats", added=["<pad>", "<more>"], missing_rows=2)
    save_model(other, seed=1, text="cats", added=["<|im_start|>"])
    tokenizer = transformers.AutoTokenizer.from_pretrained(base)
    tokenizer.pad_token = "<pad>"
    tokenizer.add_special_tokens({"extra_special_tokens": ["<more>"]})
    tokenizer.save_pretrained(base)
    num_rows = json.loads((base / "config.json").read_text())["vocab_size"]
    assert tokenizer.pad_token_id == num_rows
    ids = {"pad_token_id": num_rows, "eos_token_id": [0, num_rows + 1]}
    for name in ("config.json", "generation_config.json"):
        content = json.loads((base / name).read_text()) | ids
        (base / name).write_text(json.dumps(content))
    content = {
        "merge_method": "task_arithmetic",
        "base_model": str(base),
        "models": [{"model": str(other), "parameters": {"weight": 0.5}}],
        "tokenizer_source": "union",
    }
    out = merge_ours(content | {"dtype": "float32"}, tmp_path)
    found = transformers.AutoTokenizer.from_pretrained(out)
    assert found.get_vocab().keys() == ids_of(other).keys()
    assert found.get_vocab()["<|im_start|>"] == num_rows
    assert found.pad_token is None
    assert found.eos_token == END
    model = transformers.AutoModelForCausalLM.from_pretrained(out)
    assert model.get_input_embeddings().weight.shape[0] == num_rows + 1
    for name in ("config.json", "generation_config.json"):
        written = json.loads((out / name).read_text())
        assert (written["pad_token_id"], written["eos_token_id"]) == (None, [0]), name
