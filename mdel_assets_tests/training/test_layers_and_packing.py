"""Which layers are trained, and how documents become blocks."""

import numpy as np
import pytest

from mdel_assets.data.split_documents import SplitDocuments
from mdel_assets.errors import TrainingError
from mdel_assets.training.layers import freeze_all_but, resolve_layers, resolve_parts
from mdel_assets.training.model_files import load_model, load_tokenizer
from mdel_assets.training.packing import pack, schedule
from mdel_assets_tests.conftest import write_split


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        ([1, 3], [1, 3]),
        (["9-11"], [9, 10, 11]),
        ([-1, 0], [0, 15]),
        ("all", list(range(16))),
        (["2-3", 7], [2, 3, 7]),
        (["2-3.mlp", "3.attention", 7], [2, 3, 7]),
        (["head", "final_norm"], []),
    ],
)
def test_layers_are_resolved(wanted, expected):
    assert resolve_layers(wanted, num_layers=16) == expected


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        ([16], "layer 16 does not exist; the seed model has 16 layers, 0 to 15"),
        (["14-17"], "layer 16 does not exist"),
        ([-17], "layer -17"),
        ([3, "2-4"], r"\[3\] twice"),
        (["attention"], "Expected an index, a range"),
        (["2-3.mlp", "3.mlp"], r"\[3\] twice"),
        ([2, "2.mlp"], r"\[2\] twice"),
        (["3-17.mlp"], "layer 16 does not exist"),
        ([], "empty"),
        (["5-4"], "empty"),
    ],
)
def test_layers_that_cannot_be_are_refused(wanted, message):
    with pytest.raises(TrainingError, match=message):
        resolve_layers(wanted, num_layers=16)


@pytest.mark.parametrize(
    ("family", "prefix"), [("gpt_neox", "gpt_neox.layers"), ("llama", "model.layers")]
)
def test_only_the_chosen_layers_are_trained_in_every_family(make_model, family, prefix):
    model = load_model(make_model(family))
    parts = resolve_parts(model, [2])
    assert (parts.layers, parts.first) == ([2], 2)
    prefixes = parts.prefixes
    assert prefixes == [f"{prefix}.2."]
    trained, frozen = freeze_all_but(model, prefixes)
    per_layer = sum(p.numel() for n, p in model.named_parameters() if n.startswith(f"{prefix}.2."))
    assert trained == per_layer > 0
    assert trained + frozen == model.num_parameters()
    assert {n for n, p in model.named_parameters() if p.requires_grad} == {
        n for n, _ in model.named_parameters() if n.startswith(f"{prefix}.2.")
    }


@pytest.mark.parametrize(
    ("family", "wanted", "expected", "first"),
    [
        ("gpt_neox", ["1-2.mlp"], ["gpt_neox.layers.1.mlp.", "gpt_neox.layers.2.mlp."], 1),
        ("llama", ["2.attention"], ["model.layers.2.self_attn."], 2),
        ("gpt2", ["0.norms"], ["transformer.h.0.ln_1.", "transformer.h.0.ln_2."], 0),
        ("gpt_neox", ["-1.attention", "embeddings"], None, 0),
        ("gpt_neox", ["final_norm"], ["gpt_neox.final_layer_norm."], 3),
        ("llama", ["final_norm", "head"], ["model.norm.", "lm_head.", "embed_out."], 3),
        ("gpt2", ["embeddings", "head"], None, 0),
    ],
)
def test_parts_have_one_name_in_every_family(make_model, family, wanted, expected, first):
    model = load_model(make_model(family))
    parts = resolve_parts(model, wanted)
    if family == "gpt_neox" and "embeddings" in wanted:
        expected = ["gpt_neox.layers.2.attention.", "gpt_neox.embed_in."]
    elif family == "gpt2" and "embeddings" in wanted:
        expected = ["transformer.wte.", "transformer.wpe.", "lm_head.", "embed_out."]
    assert parts.prefixes == expected
    assert parts.first == first
    trained, _ = freeze_all_but(model, parts.prefixes)
    assert trained > 0


def test_a_part_that_no_layer_has_is_refused_with_those_it_has(make_model):
    with pytest.raises(TrainingError, match=r"no part 'moe'\. They have: input_layernorm, "):
        resolve_parts(load_model(make_model()), ["1.moe"])


@pytest.mark.parametrize("entry", ["embeddings", "head"])
def test_half_of_a_tied_tensor_cannot_be_trained(make_model, entry):
    model = load_model(make_model("llama", tie_word_embeddings=True))
    with pytest.raises(TrainingError, match="they are one tensor"):
        resolve_parts(model, [entry])
    assert resolve_parts(model, ["embeddings", "head"]).first == 0
    # Layers and a tied head that stays frozen do not disturb each other.
    assert resolve_parts(model, [1]).layers == [1]


@pytest.fixture
def documents_of(tmp_path):
    """Return a function that writes texts into a split file and gives its documents."""

    def write(texts):
        write_split(tmp_path / "train.parquet", texts, domain="github")
        return SplitDocuments.of(tmp_path / "train.parquet")

    return write


def test_packing_puts_end_of_text_after_each_document_and_loses_only_the_tail(
    make_model, documents_of
):
    tokenizer = load_tokenizer(make_model())
    texts = ["def return import", "class self if", "theorem proof"]
    blocks = pack(documents_of(texts), tokenizer, block_size=4, num_blocks=100, seed=0)
    packed = blocks.reshape(-1).tolist()
    documents = [[*tokenizer(t)["input_ids"], tokenizer.eos_token_id] for t in texts]
    num_tokens = sum(map(len, documents))
    assert len(packed) == num_tokens - num_tokens % 4
    # Whatever the order, the tokens are those of the documents, one whole after the other.
    rest = packed
    remaining = list(documents)
    while remaining and len(rest) >= min(map(len, remaining)):
        match = next(d for d in remaining if rest[: len(d)] == d)
        remaining.remove(match)
        rest = rest[len(match) :]
    assert tokenizer.eos_token_id not in rest


def test_packing_is_seeded_and_stops_at_the_blocks_wanted(make_model, documents_of):
    tokenizer = load_tokenizer(make_model())
    texts = documents_of([f"theorem {i} proof lemma" for i in range(50)])
    first = pack(texts, tokenizer, block_size=8, num_blocks=5, seed=1)
    assert first.shape == (5, 8)
    assert np.array_equal(first, pack(texts, tokenizer, block_size=8, num_blocks=5, seed=1))
    assert not np.array_equal(first, pack(texts, tokenizer, block_size=8, num_blocks=5, seed=2))


def test_packing_takes_whole_texts_in_the_generators_order(make_model, documents_of, monkeypatch):
    """Reading and tokenizing a few at a time gives the blocks that all texts at once would."""
    tokenizer = load_tokenizer(make_model())
    texts = [" ".join(["lemma", "theorem"][i % 2] for _ in range(40 * i)) for i in range(1, 90)]
    # Several reads and many batches, of a megabyte of text.
    monkeypatch.setattr("mdel_assets.training.packing._MIN_CHARACTERS", 100)
    monkeypatch.setattr("mdel_assets.data.text_batches.MAX_CHARACTERS", 1 << 16)
    monkeypatch.setattr("mdel_assets.data.split_documents._MAX_READ_BYTES", 1 << 18)
    order = np.random.default_rng(5).permutation(len(texts))
    tokens = tokenizer([texts[i] for i in order], add_special_tokens=False)["input_ids"]
    joined = [token for own in tokens for token in [*own, tokenizer.eos_token_id]]
    for num_blocks in (3, None):
        blocks = pack(documents_of(texts), tokenizer, block_size=64, num_blocks=num_blocks, seed=5)
        assert len(blocks) == (num_blocks or len(joined) // 64)
        # Not in memory: an epoch may be long.
        assert isinstance(blocks, np.memmap)
        assert blocks.ravel().tolist() == joined[: blocks.size]


def test_less_text_than_a_block_is_refused(make_model, documents_of):
    tokenizer = load_tokenizer(make_model())
    with pytest.raises(TrainingError, match=r"1 documents hold .* fewer than one block of 512"):
        pack(documents_of(["short"]), tokenizer, block_size=512, num_blocks=1, seed=0)


def test_every_epoch_reads_every_block_once():
    order = schedule(5, num_samples=13, seed=0)
    assert len(order) == 13
    assert sorted(order[:5]) == sorted(order[5:10]) == [0, 1, 2, 3, 4]
    assert list(order[:5]) != list(order[5:10])
