"""Small models whose tokenizers differ, and merges of them by MDEL and by mergekit."""

import json

import tokenizers
import torch
import transformers
import yaml
from mergekit.config import MergeConfiguration
from mergekit.merge import run_merge
from mergekit.options import MergeOptions
from safetensors.torch import load_file

from mdel_assets.experiment.loading import load_experiment
from mdel_assets.home import MdelHome
from mdel_assets.merging.one_off import one_off_recipes
from mdel_assets.publishing.one_off_merge import make_one_off, plan_merge

TEXTS = {
    "cats": ["the cat sat on the mat and the cat ran"] * 3,
    "dogs": ["a dog ran in the fog, a dog and a frog"] * 3,
}
END = "<|endoftext|>"
VOCABULARY = ("model.embed_tokens.weight", "lm_head.weight")


def save_tokenizer(folder, text, *, added=(), plain=(), template=None):
    """Save a small BPE tokenizer; ``added`` are special tokens, ``plain`` are not."""
    made = tokenizers.Tokenizer(tokenizers.models.BPE())
    made.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=40, special_tokens=[END], show_progress=False
    )
    made.train_from_iterator(TEXTS[text], trainer)
    fast = transformers.PreTrainedTokenizerFast(
        tokenizer_object=made, eos_token=END, model_max_length=512
    )
    kinds = {"special": True, "normalized": False}
    fast.add_tokens([tokenizers.AddedToken(t, **kinds) if isinstance(t, str) else t for t in added])
    fast.add_tokens(list(plain))
    fast.chat_template = template
    fast.save_pretrained(folder)
    return fast


def save_model(folder, *, seed, extra_rows=0, tied=False, missing_rows=0, **tokenizer):
    """Save a small model with a tokenizer; ``extra_rows`` belong to no token."""
    size = len(save_tokenizer(folder, **tokenizer).get_vocab()) + extra_rows - missing_rows
    config = transformers.LlamaConfig(
        vocab_size=size,
        hidden_size=16,
        num_hidden_layers=3,
        num_attention_heads=2,
        intermediate_size=24,
        tie_word_embeddings=tied,
        bos_token_id=None,
        eos_token_id=0,
    )
    torch.manual_seed(seed)
    transformers.LlamaForCausalLM(config).save_pretrained(folder)


def save_speakers(root):
    """Save models by name: A to C with one BPE and other added tokens, D with another BPE."""
    shapes = {
        "A": {"text": "cats", "extra_rows": 3, "template": "a{{ messages[0].content }} of the A"},
        "B": {
            "text": "cats",
            "added": ["<|im_start|>", "<|im_end|>"],
            "template": "b{{ messages[0].content }} of the B\n",
        },
        "C": {
            "text": "cats",
            # Not as B has it.
            "added": [tokenizers.AddedToken("<|im_end|>", special=False, lstrip=True), "<|tool|>"],
            "plain": ["hello"],
            "extra_rows": 5,
            "template": "b{{ messages[0].content }} of the B",
        },
        "D": {"text": "dogs", "added": ["<|im_end|>"], "extra_rows": 2},
        # The tokenizer has a token for which the model has no row.
        "E": {"text": "cats", "plain": ["unused"], "missing_rows": 1},
        "T": {"text": "cats", "tied": True},
        "U": {"text": "cats", "tied": True, "added": ["<|im_end|>"], "extra_rows": 1},
        # T and U have one of its added tokens in their vocabulary.
        "V": {"text": "dogs", "tied": True, "added": ["at"]},
    }
    for number, (name, shape) in enumerate(shapes.items()):
        save_model(root / name, seed=number, **shape)
    return {name: root / name for name in shapes}


class InOrder(MergeConfiguration):
    """mergekit's recipe, whose models come in the recipe's order instead of a random one."""

    def referenced_models(self):
        slices = [*(self.slices or [])]
        for module in (self.modules or {}).values():
            slices += module.slices or []
        entries = [*(self.models or []), *(source for part in slices for source in part.sources)]
        named = [entry.model for entry in entries]
        return list(dict.fromkeys([*([self.base_model] if self.base_model else []), *named]))


def placed(value, folders):
    if isinstance(value, dict):
        return {key: placed(one, folders) for key, one in value.items()}
    if isinstance(value, list):
        return [placed(one, folders) for one in value]
    return str(folders[value]) if value in folders else value


def merge_ours(content, folder, name="ours"):
    """Merge by a recipe file as `mdel merge --recipe` does."""
    documents = content if isinstance(content, list) else [content]
    path = folder / f"{name}.yml"
    path.write_text(yaml.safe_dump_all(documents))
    lineage = MdelHome(folder / "home").lineage(load_experiment("sample"))
    make_one_off(lineage, plan_merge(lineage, one_off_recipes([], path)), folder / name)
    return folder / name


def merge_theirs(content, folder, name="peer"):
    config = InOrder.model_validate(content)
    run_merge(config, str(folder / name), MergeOptions(quiet=True))
    return folder / name


def ids_of(folder):
    return transformers.AutoTokenizer.from_pretrained(folder).get_vocab()


def assert_same(ours, theirs, *, base=None, close=None):
    """Compare two merged folders token by token, and everything else as it is."""
    our_ids, their_ids = ids_of(ours), ids_of(theirs)
    assert our_ids.keys() == their_ids.keys()
    if base:
        kept = ids_of(base)
        assert {token: our_ids[token] for token in kept if token in our_ids} == kept
    found, expected = (load_file(folder / "model.safetensors") for folder in (ours, theirs))
    # mergekit stores the copy of a tied embedding, too.
    tied = json.loads((ours / "config.json").read_text())["tie_word_embeddings"]
    assert found.keys() == expected.keys() - ({"lm_head.weight"} if tied else set())
    order = [[ids[token] for token in our_ids] for ids in (our_ids, their_ids)]
    for name, values in found.items():
        other = expected[name]
        assert values.shape == other.shape, name
        if name in VOCABULARY:
            num_used = len(our_ids)
            values = torch.cat([values[order[0]], values[num_used:]])
            other = torch.cat([other[order[1]], other[num_used:]])
        if close:
            torch.testing.assert_close(values, other, **close)
        else:
            assert torch.equal(values, other), name
    configs = [json.loads((folder / "config.json").read_text()) for folder in (ours, theirs)]
    assert configs[0]["vocab_size"] == configs[1]["vocab_size"]
    pair = [transformers.AutoTokenizer.from_pretrained(folder) for folder in (ours, theirs)]
    assert pair[0].special_tokens_map == pair[1].special_tokens_map
    assert pair[0].model_max_length == pair[1].model_max_length == 512
    decoders = [{e.content: e for e in t.added_tokens_decoder.values()} for t in pair]
    assert decoders[0] == decoders[1]
