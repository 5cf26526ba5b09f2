"""Experiments that cannot work, each refused with all its mistakes and the remedy."""

import subprocess
import sys

import pytest

from mdel_assets.errors import ExperimentError
from mdel_assets.experiment.loading import parse_experiment

pytestmark = pytest.mark.in_use

GOOD = """
name: firm
source:
  layout: columns
  domain_field: dept
  train: [a.jsonl]
  validation: v.jsonl
domains: [{key: law, name: Law}, {key: mail, name: Mail}]
seed_model:
  pretrain:
    model: {model_type: gpt_neox, hidden_size: 32, num_hidden_layers: 3, num_attention_heads: 2,
            intermediate_size: 64, max_position_embeddings: 64}
    vocab_size: 320
    block_size: 32
training: {trained_layers: [1, 2], learning_rate: 1.0e-3, block_size: 32, num_tokens: 2048}
variants:
  deep: {domain: law, training: {trained_layers: all}}
merges:
  mean: {merge_method: linear, models: [{model: "expert:*"}]}
  pair: {merge_method: linear, models: [{model: "expert:law"}, {model: seed}]}
evaluation: {max_length: 32}
"""
MEAN = 'mean: {merge_method: linear, models: [{model: "expert:*"}]}'
PAIR = 'pair: {merge_method: linear, models: [{model: "expert:law"}, {model: seed}]}'
LEARNING_RATE, TOKENS, LAYERS = "learning_rate: 1.0e-3", "num_tokens: 2048", "[1, 2]"


def recipe(models, *, method="linear", more=""):
    return f"pair: {{merge_method: {method}, models: {models}{more}}}"


# What of the good experiment is replaced by what, and what its refusal says.
CASES = [
    # Sizes that do not fit the seed model.
    (
        "max_length: 32",
        "max_length: 65",
        ["evaluation.max_length is 65", "reads at most 64 tokens"],
    ),
    ("block_size: 32, num", "block_size: 128, num", ["training.block_size is 128", "64 tokens"]),
    ("    block_size: 32", "    block_size: 128", ["seed_model.pretrain.block_size is 128"]),
    (
        "training: {trained_layers: all}",
        "training: {block_size: 99}",
        ["deep.training.block_size is 99"],
    ),
    ("max_length: 32", "max_length: 1", ["evaluation.max_length: expected 2 or more, got 1"]),
    # Adapters.
    (LAYERS, "[1], adapter: {rank: 0}", ["training.adapter.rank: expected 1 or more, got 0"]),
    (LAYERS, "[1], adapter: {rnk: 4}", ["training.adapter: Unknown key 'rnk'", "'rank'"]),
    (LAYERS, "[1], adapter: {alpha: 0}", ["training.adapter.alpha"]),
    (LAYERS, "[1], adapter: {targets: []}", ["training.adapter.targets"]),
    (LAYERS, "[1], adapter: {dropout: 1.0}", ["training.adapter.dropout"]),
    (LAYERS, "[1, head], adapter: {}", ["names head: remove head or the adapter"]),
    ("    block_size: 32", "    block_size: 32\n    adapter: {}", ["Unknown key 'adapter'"]),
    (
        PAIR,
        recipe('[{model: "expert:*+./a"}, {model: seed}]'),
        ["'expert:*+./a': an adapter is merged into one model that is there already"],
    ),
    (
        PAIR,
        recipe('[{model: "expert:lw+./a"}, {model: seed}]'),
        ["Unknown domain 'lw'. Did you mean 'law'"],
    ),
    (PAIR, recipe("[{model: seed+lora}, {model: seed}]"), ["'lora' does not name an adapter"]),
    # Layers.
    (LAYERS, "[1, 7]", ["training.trained_layers: layer 7 does not exist", "0 to 2"]),
    (LAYERS, "[-4]", ["layer -4 does not exist"]),
    (LAYERS, "[]", ["training.trained_layers: the list is empty: nothing would be trained"]),
    (LAYERS, "['2-1']", ["'2-1' runs backwards: write '1-2'"]),
    (LAYERS, "['1-2.mlp', first, true]", ["'first' is not valid", "True is not valid"]),
    (LAYERS, "7", ["training.trained_layers: expected 'all' or a list", "got 7"]),
    (LAYERS, "'1'", ["expected 'all' or a list such as [9, 10, '11-13.mlp'], got '1'"]),
    # Numbers.
    (LEARNING_RATE, "learning_rate: .inf", ["training.learning_rate: expected a finite number"]),
    (LEARNING_RATE, "learning_rate: .nan", ["training.learning_rate: expected a finite number"]),
    (LEARNING_RATE, "learning_rate: 0", ["training.learning_rate: expected more than 0, got 0"]),
    (LEARNING_RATE, "learning_rate: fast", ["learning_rate: expected a number, got 'fast'"]),
    (TOKENS, "num_tokens: 1e30", ["training.num_tokens: expected a whole number, got '1e30'"]),
    (TOKENS, "num_tokens: 1.0e+30", ["training.num_tokens: expected", "got 1e+30"]),
    (TOKENS, "num_tokens: true", ["training.num_tokens: expected a number, got true"]),
    (TOKENS, "num_tokens: -5", ["training.num_tokens: expected 1 or more, got -5"]),
    (TOKENS, "num_tokens: 3.5", ["training.num_tokens: expected a whole number, got 3.5"]),
    (TOKENS, "batch_size: 1.0e+18", ["training.batch_size: expected 1,000,000 or less, got 1e+18"]),
    (TOKENS, "batch_size: 9, micro_batch_size: 2", ["training: batch_size 9 is not a multiple"]),
    (TOKENS, "num_tokens: 9, max_steps: 9", ["training: give one of num_tokens, max_steps"]),
    (TOKENS, "seed: -1", ["training.seed: expected 0 or more, got -1"]),
    (TOKENS, "seed: 99999999999", ["training.seed: expected 4,294,967,295 or less"]),
    # The seed's configuration.
    ("hidden_size: 32", "hidden_size: 0", ["seed_model.pretrain.model: hidden_size is 0"]),
    (
        "hidden_size: 32",
        "hidden_size: 32, hidden_act: swoosh",
        ["hidden_act: Unknown activation function 'swoosh'. Did you mean 'swish'?"],
    ),
    (
        "hidden_size: 32",
        "hidden_size: 33",
        ["hidden_size 33 is not a multiple of num_attention"],
    ),
    ("hidden_size: 32", "hidden_size: big", ["hidden_size is 'big', expected a whole number"]),
    ("hidden_size: 32", "hidden_sise: 32", ["Unknown key 'hidden_sise'. Did you mean 'hidden_siz"]),
    ("type: gpt_neox", "type: gptneox", ["Unknown model_type 'gptneox'. Did you mean 'gpt_neox'"]),
    ("type: gpt_neox", "type: vit", ["Unknown model_type 'vit'"]),
    ("model_type: gpt_neox, ", "", ["seed_model.pretrain.model: 'model' needs a 'model_type'"]),
    ("hidden_size: 32", "vocab_size: 99", ["remove 'vocab_size': the tokenizer"]),
    ("vocab_size: 320", "vocab_size: 20", ["vocab_size: expected 300 or more, got 20"]),
    ("    vocab_size: 320\n", "", ["seed_model.pretrain.vocab_size: is required"]),
    # Recipes.
    (PAIR, recipe("[{model: seed, parameters: {weight: .nan}}]"), ["expected a number", "nan"]),
    (PAIR, recipe("[{model: seed, parameters: {weight: 0}}]"), ["pair: all weights are 0"]),
    (PAIR, recipe("[{model: seed}]", more=", parameters: {weight: [0, 0]}"), ["weights are 0"]),
    (
        PAIR,
        recipe("[{model: seed, parameters: {weight: -1}}, {model: 'expert:law'}]"),
        ["the weights sum to 0"],
    ),
    (
        PAIR,
        recipe("[{model: 'merged:pair'}, {model: seed}]"),
        ["merges.pair: it is made from itself, through 'merged:pair'"],
    ),
    (PAIR, recipe("[{model: 'merged:mea'}]"), ["'merged:mea' does not name a model"]),
    (PAIR, recipe("[{model: pair}]"), ["merges.pair: 'pair' is made by another recipe"]),
    (
        PAIR,
        recipe("[{model: merged-mean}]"),
        ["'merged-mean' is made by another recipe. Write 'merged:mean'"],
    ),
    (
        PAIR,
        recipe("[{model: exprt-law}]"),
        ["'exprt-law' does not name a model. Expected seed, expert:"],
    ),
    (PAIR, recipe("[{model: 'expert:lwa'}]"), ["pair: Unknown domain 'lwa'. Did you mean 'law'?"]),
    (PAIR, recipe("[{model: 'random:*'}]"), ["so set baselines.random_split"]),
    (
        PAIR,
        recipe("[]"),
        ["merges.pair: a recipe names its models under either 'models' or 'slices'"],
    ),
    (PAIR, recipe("[{model: seed}]", method="tie"), ["Unknown merge_method 'tie'. Did you mean"]),
    (
        PAIR,
        recipe("[{model: seed}, {model: 'expert:law', parameters: {density: 2}}]", method="ties"),
        ["'density' is 2.0, expected 0 to 1"],
    ),
    (PAIR, recipe("{model: seed}"), ["merges.pair.models: expected a list, got a mapping"]),
    (PAIR, "pair: linear", ["merges.pair: expected a mapping of keys, got 'linear'"]),
    # Names.
    ("name: firm", "name: cache", ["name: 'cache' is reserved: MDEL_HOME has its own 'cache'"]),
    ("name: firm", "name: Dagster", ["name: 'Dagster' is reserved"]),
    ("name: firm", "name: wandb", ["name: 'wandb' is reserved"]),
    ("name: firm", f"name: {'x' * 300}", ["has 300 characters; at most 100 are allowed"]),
    ("name: firm", "name: ../firm", ["name: '../firm' is not allowed as a name: use letters"]),
    ("name: firm", "name: 2024", ["name: expected text, got 2024: put it in quotes"]),
    ("name: firm", "nam: firm", ["name: is required", "Unknown key 'nam'. Did you mean 'name'?"]),
    ("mean:", "Pair:", ["merges: 'Pair' and 'pair' differ only in case"]),
    ("mean:", "a/b:", ["merges: 'a/b' is not allowed as a name"]),
    ("mean:", "a...b:", ["merges: 'a...b' is not allowed as a name"]),
    ("mean:", "7:", ["merges.7: expected text, got 7: put it in quotes"]),
    # Domains and the source.
    (
        "domains: [{key: law, name: Law}, {key: mail, name: Mail}]",
        "domains: []",
        ["the list is empty"],
    ),
    ("key: mail", "key: law", ["domains: the domain key 'law' occurs twice"]),
    ("name: Mail", "name: Law", ["domains: the domain label 'Law' occurs twice"]),
    ("key: mail", "key: no", ["domains.1.key: expected text, got false: put it in quotes"]),
    ("key: mail", "key: E Mail", ["domains.1.key: a domain key is made of a-z, 0-9 and _"]),
    ("validation: v.jsonl", "validation: a.jsonl", ["source.validation is 'a.jsonl', which is a"]),
    ("train: [a.jsonl]", "train: a.jsonl", ["source.train: expected a list, got 'a.jsonl'"]),
    ("train: [a.jsonl]", "train: []", ["source.train: expected at least 1 entry"]),
    ("layout: columns", "layout: collumns", ["expected one of pile, dolma, columns, folders (did"]),
    ("  domain_field: dept\n", "", ["source: layout 'columns' needs 'domain_field'"]),
    ("domain: law", "domain: lew", ["variants.deep: Unknown domain 'lew'. Did you mean 'law'?"]),
    (
        "training: {trained_layers: all}",
        "training: {batch: 2}",
        ["variants.deep.training: Unknown key 'batch'. Did you"],
    ),
    ("max_length: 32", "splits: [test_domain, test_domain]", ["'test_domain' occurs twice"]),
    (
        "evaluation: {max_length: 32}",
        "mixture: {general_ratio: 0}\nevaluation: {splits: [test_pile, test_domain]}",
        ["the first one, 'test_pile', but it holds no text, because mixture.general_ratio is 0"],
    ),
    ("name: firm", "name: firm\nreplicates: 0", ["replicates: expected 1 or more, got 0"]),
    ("name: firm", "name: firm\nreplicates: -3", ["replicates: expected 1 or more, got -3"]),
    ("name: firm", "name: firm\nreplicates: 101", ["replicates: expected 100 or less, got 101"]),
    ("name: firm", "name: firm\nreplicates: three", ["replicates: expected a whole number"]),
    ("name: firm", "name: firm\nreplicates: true", ["replicates: expected a number, got true"]),
    # An @ begins the number of a replicate.
    ("key: mail", "key: mail@2", ["domains.1.key: a domain key is made of a-z, 0-9 and _"]),
    ("deep: {domain", "deep@2: {domain", ["variants: 'deep@2' is not allowed as a name"]),
    ("  pair: {", "  pair@2: {", ["merges: 'pair@2' is not allowed as a name"]),
    # What YAML itself lets pass.
    (LEARNING_RATE, f"{LEARNING_RATE}, learning_rate: 2.0e-3", ["'learning_rate' is repeated"]),
    ("evaluation:", "name: other\nevaluation:", ["the key 'name' is repeated in lines 2 and"]),
    ("name: firm", "name: [" * 5000, ["nested more than 40 levels deep"]),
    ("name: firm", "name: " + "{a: " * 5000, ["nested more than 40 levels deep"]),
    ("name: firm", "name: [firm", ["is not YAML"]),
    ("name: firm", "name: firm\a", ["is not YAML", "special characters"]),
    ("name: firm", "name: &a [*a]", ["levels deep"]),
    (GOOD, "- a list\n", ["must be a mapping of keys"]),
    (GOOD, "", ["must be a mapping of keys"]),
]
WORDS_OF_PYDANTIC = (
    "Input should",
    "Value error",
    "valid ",
    "validation error",
    "type=",
    "pydantic",
)


def refusal(text):
    with pytest.raises(ExperimentError) as refused:
        parse_experiment(text, origin="firm.yaml")
    return str(refused.value)


def test_the_good_experiment_is_good():
    assert parse_experiment(GOOD, origin="firm.yaml").name == "firm"


@pytest.mark.parametrize(("old", "new", "words"), CASES)
def test_an_experiment_that_cannot_work_is_refused_in_words_of_ours(old, new, words):
    assert old in GOOD
    message = refusal(GOOD.replace(old, new))
    for word in words:
        assert word in message
    assert not [word for word in WORDS_OF_PYDANTIC if word in message]
    assert len(message) < 600


def test_all_mistakes_are_told_at_once():
    text = GOOD
    expected = []
    for old in (LAYERS, LEARNING_RATE, TOKENS, "name: Mail", PAIR, "max_length: 32"):
        _, new, words = next(case for case in CASES if case[0] == old)
        text = text.replace(old, new)
        expected += words
    message = refusal(text)
    assert message.startswith("firm.yaml has 6 mistakes:\n- ")
    for words in expected:
        assert words in message


def test_aliases_that_unfold_without_end_are_refused():
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 9)]
    assert "expands to more than 100,000 values" in refusal(GOOD + "\n".join(lines))


def test_reading_an_experiment_loads_no_heavy_library(tmp_path):
    (tmp_path / "firm.yaml").write_text(GOOD)
    code = (
        "import sys; from mdel_assets.experiment.loading import load_experiment\n"
        f"load_experiment({str(tmp_path / 'firm.yaml')!r})\n"
        "print([m for m in ('torch', 'transformers', 'dagster') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
