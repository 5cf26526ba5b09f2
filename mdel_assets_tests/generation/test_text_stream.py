"""Text as it comes: characters whole, nothing shown twice or lost."""

import numpy as np
import pytest

from mdel_assets.generation.text_stream import TextStream
from mdel_assets.training.seed import train_tokenizer

TEXTS = [
    "plain words",
    "naïve café — 你好, мир",
    "🙂🙃 family 👩‍👩‍👧 flags 🇫🇷",
    " spaces  \n\ttabs",
]


def sentencepiece_like():
    """Return a tokenizer that drops the space of its first word, and falls back to bytes."""
    from tokenizers import Tokenizer, decoders, models
    from transformers import PreTrainedTokenizerFast

    pieces = [f"<0x{byte:02X}>" for byte in range(256)]
    pieces += ["▁plain", "▁words", "▁a", "b", "<unk>"]
    vocabulary = {piece: number for number, piece in enumerate(pieces)}
    tokenizer = Tokenizer(models.BPE(vocabulary, [], unk_token="<unk>", byte_fallback=True))
    tokenizer.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>"), vocabulary


@pytest.fixture(scope="module")
def by_bytes():
    """A tokenizer whose every token is a byte."""
    return train_tokenizer(["a"], vocab_size=257)


def streamed(tokenizer, tokens, *, prompt=()):
    stream = TextStream(tokenizer, prompt=prompt)
    return [*(stream.add(token) for token in tokens), stream.end()]


@pytest.mark.parametrize("text", TEXTS)
def test_pieces_are_the_text_and_no_piece_holds_half_a_character(text, by_bytes):
    tokens = by_bytes(text, add_special_tokens=False)["input_ids"]
    assert len(tokens) == len(text.encode())
    pieces = streamed(by_bytes, tokens)
    assert "".join(pieces) == text
    assert not any("�" in piece for piece in pieces)
    # Every character comes with its last byte.
    assert [piece for piece in pieces if piece] == list(text)


def test_a_space_at_the_beginning_of_a_continuation_is_kept():
    tokenizer, ids = sentencepiece_like()
    tokens = [ids["▁words"], ids["▁a"], ids["b"], *"é".encode(), ids["▁plain"]]
    assert streamed(tokenizer, tokens, prompt=[ids["▁plain"]]) == [
        *(" words", " a", "b", "", "é", " plain"),
        "",
    ]


def test_what_is_no_character_shows_as_such_at_the_end(by_bytes):
    tokens = by_bytes("a🙂", add_special_tokens=False)["input_ids"]
    assert "".join(streamed(by_bytes, tokens[:-1])) == "a�"
    genuine = by_bytes("a�b�", add_special_tokens=False)["input_ids"]
    assert "".join(streamed(by_bytes, genuine)) == "a�b�"


def test_any_bytes_come_out_as_decoding_all_at_once_has_them(by_bytes):
    draw = np.random.default_rng(0)
    for _ in range(50):
        tokens = draw.integers(1, 257, 40).tolist()
        assert "".join(streamed(by_bytes, tokens)) == by_bytes.decode(tokens)
