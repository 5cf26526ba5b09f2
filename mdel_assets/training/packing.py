"""Packing: documents become blocks of exactly ``block_size`` tokens.

Documents are shuffled by a seed, tokenized without special tokens, and joined with an end-of-text
token after each. The last, incomplete block is left out. Documents are read and tokenized a few at
a time, and no more of them than fill the blocks, which lie in a file: an epoch may have many.
"""

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mdel_assets.data.split_documents import SplitDocuments
from mdel_assets.data.temporary_columns import TemporaryColumn
from mdel_assets.data.text_batches import MAX_CHARACTERS, text_batches
from mdel_assets.errors import TrainingError
from mdel_assets.training.model_files import special_ids

_log = logging.getLogger(__name__)
# Fewer characters than this are not worth a call of the tokenizer.
_MIN_CHARACTERS = 1 << 14
_CHARACTERS_PER_TOKEN = 4


def pack(
    documents: SplitDocuments,
    tokenizer: Any,
    *,
    block_size: int,
    num_blocks: int | None,
    seed: int,
    max_documents: int | None = None,
    folder: Path | None = None,
    setting: str = "training.block_size",
) -> NDArray[np.int32]:
    """Return (B, block_size) token ids, B at most ``num_blocks``, from shuffled ``documents``.

    Of the shuffled documents only the first ``max_documents`` are taken. The log tells how many of
    those that were read hold the literal text of a special token, and so the token itself. The ids
    are mapped from a nameless file in ``folder``, or among the system's temporary ones. ``setting``
    is the setting of ``block_size``.

    Raises:
        TrainingError: the documents hold fewer tokens than one block, or the tokenizer has no
            end-of-text token.

    """
    num_read = num_special = 0
    special = special_ids(tokenizer)
    wanted = None if num_blocks is None else num_blocks * block_size
    order = shuffled(documents, seed=seed)[:max_documents]
    with TemporaryColumn(folder, np.int32) as column:
        for tokens in tokenized_documents(documents, order, tokenizer, num_tokens=wanted):
            column.append(tokens)
            num_read += 1
            # The last one is the end-of-text that every document gets.
            num_special += bool(np.isin(tokens[:-1], special).any())
            if wanted is not None and len(column) >= wanted:
                break
        packed, have = column.mapped(), len(column)
    if have < block_size:
        raise TrainingError(
            f"{len(documents)} documents hold {have} tokens, fewer than one block of {block_size}. "
            f"Lower {setting}, or give the domain more text."
        )
    if num_special:
        _log.warning(
            "%d of %d documents contain the literal text of a special token, which is read as that "
            "token; special_tokens: text reads it as text",
            num_special,
            num_read,
        )
    count = have // block_size
    count = count if num_blocks is None else min(num_blocks, count)
    return packed[: count * block_size].reshape(count, block_size)


def schedule(num_blocks: int, *, num_samples: int, seed: int) -> NDArray[np.int64]:
    """Return which block each of ``num_samples`` training samples reads.

    Every epoch reads all blocks in a new seeded order: neighbouring blocks are often of one long
    document, and a batch of one document teaches little.
    """
    draw = np.random.default_rng(seed)
    num_epochs = -(-num_samples // num_blocks)
    epochs = [draw.permutation(num_blocks) for _ in range(num_epochs)]
    return np.concatenate(epochs)[:num_samples]


def shuffled(documents: SplitDocuments, *, seed: int) -> NDArray[np.int64]:
    """Return the documents' numbers in the seeded order in which trainings read them."""
    return np.random.default_rng(seed).permutation(len(documents))


def tokenized_documents(
    documents: SplitDocuments,
    order: NDArray[np.int64],
    tokenizer: Any,
    *,
    num_tokens: int | None = None,
) -> Iterator[NDArray[np.int32]]:
    """Yield the token ids of the documents numbered ``order``, with end-of-text after each.

    ``num_tokens``, if given, is about how many the caller will take: little more text is read.

    Raises:
        TrainingError: the tokenizer has no end-of-text token.

    """
    end_of_text = tokenizer.eos_token_id
    if end_of_text is None:
        raise TrainingError("The seed model's tokenizer has no eos_token to put between documents.")
    expected = None if num_tokens is None else _CHARACTERS_PER_TOKEN * num_tokens
    left = expected

    def enough() -> int:
        return MAX_CHARACTERS if left is None else max(_MIN_CHARACTERS, left)

    texts = documents.texts(order, num_characters=expected)
    for batch in text_batches(texts, length_of=len, enough=enough):
        for tokens in tokenizer(batch, add_special_tokens=False, verbose=False)["input_ids"]:
            yield np.asarray([*tokens, end_of_text], np.int32)
            if left is not None:
                left -= _CHARACTERS_PER_TOKEN * (len(tokens) + 1)
