"""Packing: documents become blocks of exactly ``block_size`` tokens.

Documents are shuffled by a seed, tokenized without special tokens, and joined with the end-of-text
token after each. The last, incomplete block is left out.
"""

import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

from mdel_assets.errors import TrainingError

_log = logging.getLogger(__name__)
_DOCUMENTS_PER_CALL = 256


def read_texts(path: Path, *, domain: str | None = None) -> list[str]:
    """Return the texts of a split, of one half only where ``domain`` names it."""
    filters = [("domain", "=", domain)] if domain else None
    texts: list[str] = pq.read_table(path, columns=["text"], filters=filters).column(0).to_pylist()
    return texts


def pack(
    texts: Sequence[str],
    tokenizer: Any,
    *,
    block_size: int,
    num_blocks: int | None,
    seed: int,
    max_documents: int | None = None,
) -> NDArray[np.int32]:
    """Return (B, block_size) token ids, B at most ``num_blocks``, from shuffled ``texts``.

    Of the shuffled texts only the first ``max_documents`` are taken.

    Raises:
        TrainingError: the texts hold fewer tokens than one block, or the tokenizer has no
            end-of-text token.

    """
    pieces: list[NDArray[np.int32]] = []
    have = 0
    for tokens in tokenized_documents(texts, tokenizer, seed=seed, limit=max_documents):
        pieces.append(tokens)
        have += len(tokens)
        if num_blocks is not None and have >= num_blocks * block_size:
            break
    if have < block_size:
        raise TrainingError(
            f"{len(texts)} documents hold {have} tokens, fewer than one block of {block_size}. "
            f"Lower training.block_size, or give the domain more text."
        )
    packed = np.concatenate(pieces)
    count = len(packed) // block_size
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


def tokenized_documents(
    texts: Sequence[str], tokenizer: Any, *, seed: int, limit: int | None = None
) -> Iterator[NDArray[np.int32]]:
    """Yield the token ids of each of ``texts``, in a seeded order, with end-of-text behind them.

    At most ``limit`` of them.

    Raises:
        TrainingError: the tokenizer has no end-of-text token.

    """
    end_of_text = tokenizer.eos_token_id
    if end_of_text is None:
        raise TrainingError("The seed model's tokenizer has no eos_token to put between documents.")
    order = np.random.default_rng(seed).permutation(len(texts))[:limit]
    for start in range(0, len(order), _DOCUMENTS_PER_CALL):
        batch = [texts[i] for i in order[start : start + _DOCUMENTS_PER_CALL]]
        for tokens in tokenizer(batch, add_special_tokens=False, verbose=False)["input_ids"]:
            yield np.asarray([*tokens, end_of_text], np.int32)
