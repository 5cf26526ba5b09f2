"""Tokenizers of merges that are refused, before any weight is read."""

import json
import shutil

import pytest
import tokenizers
import transformers
import yaml

from mdel_assets.errors import MergeError
from mdel_assets_tests.merging.speakers import merge_ours, placed, save_model

RECIPE = """
    merge_method: linear
    models: [{model: B}, {model: C}]
    parameters: {weight: 1.0}
"""


def refused(content, speakers, folder, message):
    content = placed(yaml.safe_load(RECIPE) | content, speakers)
    with pytest.raises(MergeError, match=message) as raised:
        merge_ours(content, folder)
    assert not (folder / "ours").exists()
    return str(raised.value)


def tokens(**entries):
    return {"tokenizer": {"source": "union", "tokens": entries}}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"tokenizer_source": "base", "tokenizer": {"source": "union"}}, "either 'tokenizer_sourc"),
        (
            {"tokenizer_source": "unoin"},
            "'unoin' is not a model of this recipe. Name one of .*weig",
        ),
        ({"tokenizer_source": "A"}, "is not a model of this recipe"),
        ({"tokenizer": {"sauce": "union"}}, "Unknown key 'sauce'. Did you mean 'source'"),
        ({"tokenizer": {"pad_to_multiple_of": 0}}, "pad_to_multiple_of.*1 or more"),
        (
            tokens(the={"source": {"kind": "nil"}}),
            "tokens.the.source.kind: expected one of zero",
        ),
        (tokens(the={"source": {"kind": "zero", "model": "B"}}), "'zero' takes no 'model'"),
        (
            tokens(the={"source": {"kind": "model_token", "model": "B"}}),
            "one of 'token' and 'token",
        ),
        (tokens(the={"source": {"kind": "model_token", "token": "a"}}), "takes 'model' and one of"),
        (tokens(the={"source": "A"}), "is not a model of this recipe"),
        (tokens(new={}), "the token 'new' needs a 'source', because .* lack it. Give a model"),
        (tokens(the={"force": True}), "'the' needs a 'source', because it has force: true"),
        (tokens(new={"source": "B"}), "is to be that of 'new' in .*whose vocabulary lacks 'new'"),
        (
            tokens(new={"source": {"kind": "model_token", "model": "B", "token": "nowhere"}}),
            "is to be that of 'nowhere' in .*Name a model that has it, {kind: zero}, or",
        ),
        (
            tokens(new={"source": {"kind": "model_token", "model": "B", "token_id": 999}}),
            "token_id 999 of .*: expected at most",
        ),
    ],
)
def test_a_tokenizer_that_cannot_be_is_refused(content, message, speakers, tmp_path):
    refused(content, speakers, tmp_path, message)


def test_different_tokenizers_without_a_tokenizer_in_the_recipe_are_refused(speakers, tmp_path):
    refused({}, speakers, tmp_path, "another tokenizer vocabulary than B .set tokenizer_source: un")


def test_a_model_without_tokenizer_is_refused(speakers, tmp_path):
    bare = tmp_path / "bare"
    bare.mkdir()
    for name in ("config.json", "model.safetensors"):
        (bare / name).write_bytes((speakers["C"] / name).read_bytes())
    message = "The tokenizer of .*bare is needed, because the recipe has 'tokenizer'.*Save the one"
    refused({"tokenizer_source": "base"}, speakers | {"C": bare}, tmp_path, message)


def test_a_model_whose_embedding_is_not_as_long_as_it_says_is_refused(speakers, tmp_path):
    wrong = tmp_path / "wrong"
    shutil.copytree(speakers["C"], wrong)
    content = json.loads((wrong / "config.json").read_text())
    (wrong / "config.json").write_text(json.dumps(content | {"vocab_size": 1000}))
    message = "wrong has no embedding with 1000 rows, which its configuration gives as vocab_size"
    refused({"tokenizer_source": "union"}, speakers | {"C": wrong}, tmp_path, message)


def test_tokens_without_rows_can_be_removed_from_bpe_only(speakers, tmp_path):
    words = tokenizers.Tokenizer(
        tokenizers.models.WordLevel({"the": 0, "cat": 1, "sat": 2, "?": 3}, unk_token="?")
    )
    save_model(tmp_path / "words", seed=9, text="cats")
    fast = transformers.PreTrainedTokenizerFast(tokenizer_object=words)
    fast.save_pretrained(tmp_path / "words")
    fast.add_tokens([f"more-{number}" for number in range(80)])
    fast.save_pretrained(tmp_path / "words")
    message = "tokens for which the model has no row .such as 'more-.* this one is WordLevel"
    refused({"tokenizer_source": "union"}, speakers | {"B": tmp_path / "words"}, tmp_path, message)


def test_a_token_from_a_model_of_another_slice_is_refused(speakers, tmp_path):
    sources = [{"model": name, "layer_range": [0, 3]} for name in "BC"]
    content = {"merge_method": "passthrough", "slices": [{"sources": [one]} for one in sources]}
    content |= {"models": [], "parameters": {}}
    content |= tokens(new={"source": {"kind": "model_token", "model": "C", "token": "the"}})
    message = "'new' is to be that of C, which is not among the models that the embedding is merged"
    refused(content, speakers, tmp_path, message)


def test_a_later_stages_tokens_are_refused_before_the_first_stage_is_merged(speakers, tmp_path):
    """The first stage's weights are broken, which would be noticed if they were read."""
    broken = tmp_path / "broken"
    shutil.copytree(speakers["B"], broken)
    path = broken / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-8])
    first = yaml.safe_load(RECIPE) | {"name": "first", "tokenizer_source": "union"}
    second = yaml.safe_load(RECIPE) | {"name": "second"} | tokens(new={})
    final = yaml.safe_load(RECIPE.replace("model: C", "model: second"))
    final["models"][0]["model"] = "first"
    documents = placed([first, second, final | {"tokenizer_source": "base"}], speakers)
    documents[0]["models"][0]["model"] = str(broken)
    with pytest.raises(MergeError, match="the token 'new' needs a 'source'"):
        merge_ours(documents, tmp_path)
