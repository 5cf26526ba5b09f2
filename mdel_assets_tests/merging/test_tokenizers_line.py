"""A recipe with another tokenizer in an experiment: checked, merged, scored beside the others."""

import json
import shutil

import pyarrow.parquet as pq
import pytest
import torch
import transformers
import yaml
from safetensors.torch import load_file

from mdel_assets.defs.merging import _is_sound, _shapes
from mdel_assets.experiment.merge_recipe import MergeRecipe
from mdel_assets.home import MdelHome
from mdel_assets.line.making import make_all, make_one
from mdel_assets.maintenance.experiment_checks import look_around
from mdel_assets.merging.members import without_folders
from mdel_assets.store.carry_over import is_of_tokenizer
from mdel_assets.store.tensor_files import TensorFolder
from mdel_assets_tests.conftest import pico_experiment
from mdel_assets_tests.merging.speakers import ids_of, save_tokenizer

RECIPES = """
united:
  merge_method: linear
  models:
    - {model: "expert:github", parameters: {weight: 3}}
    - {model: FOREIGN, parameters: {weight: 1}}
  tokenizer:
    source: union
    tokens: {"<|im_end|>": {source: FOREIGN, force: true}}
    pad_to_multiple_of: 8
  chat_template: chatml
padded:
  merge_method: linear
  models: [{model: "expert:*"}]
  tokenizer: {source: base, tokens: {"<|new|>": {source: {kind: zero}}}, pad_to_multiple_of: 64}
"""
EMBEDDING = "gpt_neox.embed_in.weight"


@pytest.fixture(scope="module")
def united(branched, corpus, tmp_path_factory):
    """Return the lineage of a line with both recipes, and the folder of the foreign model."""
    _, home = branched
    folder = tmp_path_factory.mktemp("united")
    shutil.copytree(home.root, folder / "home")
    foreign = folder / "foreign"
    seed = MdelHome(folder / "home").lineage(pico_experiment(corpus)).folder("seed_model")
    config = transformers.AutoConfig.from_pretrained(seed)
    tokenizer = save_tokenizer(foreign, text="dogs", added=["<|im_end|>"])
    config.vocab_size = len(tokenizer.get_vocab()) + 2
    torch.manual_seed(5)
    transformers.GPTNeoXForCausalLM(config).save_pretrained(foreign)
    recipes = yaml.safe_load(RECIPES.replace("FOREIGN", str(foreign)))
    experiment = pico_experiment(corpus, merges=recipes, baselines={})
    lineage = MdelHome(folder / "home").lineage(experiment)
    for domain in lineage.present_domains():
        make_one(lineage, "expert_model", domain)
    for name in recipes:
        make_one(lineage, "merged_model", name)
    return lineage, foreign


def test_an_experiments_recipe_may_unite_tokenizers(united):
    lineage, foreign = united
    folder = lineage.folder("merged_model", "united")
    merged, expert, other = (
        load_file(each / "model.safetensors")[EMBEDDING]
        for each in (folder, lineage.folder("expert_model", "github"), foreign)
    )
    ids, own, theirs = ids_of(folder), ids_of(lineage.folder("seed_model")), ids_of(foreign)
    assert ids.keys() == own.keys() | theirs.keys()
    assert merged.shape[0] % 8 == 0
    for token, row in ids.items():
        is_own = token in own and token != "<|im_end|>"
        first = expert[own[token]] if is_own else other[theirs[token]]
        second = other[theirs[token]] if token in theirs else first
        expected = (3 * first + second) / 4
        torch.testing.assert_close(merged[row], expected, rtol=0, atol=1e-6)
    written = yaml.safe_load((folder / "mergekit_config.yml").read_text())
    tokens = {"<|im_end|>": {"source": str(foreign), "force": True}}
    expected = {"source": "union", "tokens": tokens, "pad_to_multiple_of": 8}
    assert written["tokenizer"] == expected
    published = without_folders((folder / "mergekit_config.yml").read_text())
    assert "source: foreign" in published
    assert str(foreign) not in published
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    assert tokenizer.apply_chat_template([{"role": "user", "content": "x"}], tokenize=False) == (
        "<|im_start|>user\nx<|im_end|>\n"
    )


def test_models_of_different_tokenizers_are_scored_beside_each_other(united):
    """Bits per byte are comparable; a model whose tokenizer only grew scores as before."""
    lineage, _ = united
    make_all(lineage, "token_scores", ["seed", "merged-united", "merged-padded"])
    for name in ("united", "padded"):
        folder = lineage.folder("merged_model", name)
        model = transformers.AutoModelForCausalLM.from_pretrained(folder)
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
        scores = lineage.folder("token_scores", f"merged-{name}") / "documents.parquet"
        table = {row["document_id"]: row for row in pq.read_table(scores).to_pylist()}
        documents = pq.read_table(
            lineage.folder("domain_dataset", "arxiv") / "validation_domain.parquet"
        ).to_pylist()
        for document in documents[:3]:
            ids = tokenizer(document["text"], add_special_tokens=False)["input_ids"]
            row = table[document["document_id"]]
            assert row["num_tokens"] == len(ids)
            assert row["num_bytes"] == len(document["text"].encode())
            first = torch.tensor([[tokenizer.eos_token_id, *ids[:31]]])
            with torch.no_grad():
                found = model(first[:, :-1]).logits[0].double().log_softmax(-1)
            expected = found.gather(1, first[0, 1:, None])[:, 0]
            stored = torch.tensor(row["log_probabilities"][:31], dtype=torch.float64)
            torch.testing.assert_close(stored, expected, rtol=0, atol=1e-4)


def test_what_the_foreign_tokenizer_is_counts(united, tmp_path):
    lineage, foreign = united
    assert lineage.stale("merged_model", "united") is None
    path = foreign / "tokenizer_config.json"
    before = path.read_text()
    path.write_text(json.dumps(json.loads(before) | {"pad_token": "<|im_end|>"}))
    assert lineage.stale("merged_model", "united")
    path.write_text(before)
    assert lineage.stale("merged_model", "united") is None


def test_a_check_names_tokenizers_that_cannot_be_united(united, corpus):
    lineage, foreign = united
    assert look_around(lineage).mistakes == []
    recipes = yaml.safe_load(RECIPES.replace("FOREIGN", str(foreign)))
    recipes["united"]["tokenizer"]["tokens"] = {"<|nowhere|>": {"source": "expert:github"}}
    del recipes["padded"]
    changed = MdelHome(lineage.root.parent).lineage(pico_experiment(corpus, merges=recipes))
    (mistake,) = look_around(changed).mistakes
    assert mistake.startswith("merges.united: tokenizer.tokens: the embedding of '<|nowhere|>'")
    bare = foreign.parent / "bare"
    shutil.copytree(foreign, bare, ignore=lambda _, names: filter(is_of_tokenizer, names))
    recipes = yaml.safe_load(RECIPES.replace("FOREIGN", str(bare)))
    (mistake,) = look_around(
        MdelHome(lineage.root.parent).lineage(pico_experiment(corpus, merges=recipes))
    ).mistakes
    assert "needed, because the recipe has 'tokenizer'" in mistake


def test_the_check_of_shapes_knows_that_rows_may_be_added(united):
    lineage, _ = united
    for name in ("united", "padded"):
        artifact = lineage.artifact("merged_model", name)
        assert _is_sound(lineage, artifact.require(), artifact).passed
    # Without a tokenizer in the recipe, added rows are a difference.
    content = yaml.safe_load(RECIPES)["padded"]
    del content["tokenizer"]
    recipe = MergeRecipe.model_validate(content)
    folders = lineage.folder("merged_model", "padded"), lineage.folder("seed_model")
    ours, seeds = (_shapes(TensorFolder(folder), recipe) for folder in folders)
    assert {name for name in ours if ours[name] != seeds[name]} >= {EMBEDDING}
