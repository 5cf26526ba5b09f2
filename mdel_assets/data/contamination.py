"""Contamination: how many evaluation documents share a passage with the training documents.

Definition: a *shingle* is a run of 13 words of one document, a word being a run of letters, digits
and non-ASCII characters, in lower case. An evaluation document is *contaminated* when at least one
of its shingles occurs in a training document. Exact copies never get this far (the index removes
them); what is found here are near copies, quotations and boilerplate. After Brown et al. 2020,
appendix C, which uses 13-grams likewise.

Shingles are compared by 64-bit hashes. Those of the evaluation splits are kept exactly, sorted;
training text streams by, and a bit table lets nearly all of its shingles go without a search.
"""

import dataclasses
import functools
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

SHINGLE_WORDS = 13
_PIECE_BYTES = 1 << 20
_BITS_PER_SHINGLE = 32
_BATCH_ROWS = 256
_WORD_BASE, _SHINGLE_BASE = 0x9E3779B97F4A7C15, 0xD6E8FEB86659FD93
_MIX = np.uint64(0xBF58476D1CE4E5B9)

_Words = NDArray[np.uint64]


@dataclasses.dataclass(frozen=True)
class Contamination:
    """What one evaluation split shares with the training split."""

    num_documents: int
    num_contaminated_documents: int
    num_shingles: int
    num_shared_shingles: int


def measure_contamination(train: Path, evaluation: Mapping[str, Path]) -> dict[str, Contamination]:
    """Compare each evaluation split (a Parquet file with ``text``) with ``train``.

    ``num_shingles`` counts a split's different shingles. Text is read in a stream; memory holds
    the evaluation splits' hashes, about 8 bytes a word. A text above 1 MiB is cut into pieces; the
    few shingles across a cut are left out.
    """
    splits = {name: _shingles_of(path) for name, path in evaluation.items()}
    wanted = np.unique(np.concatenate([_EMPTY, *(found for found, _, _ in splits.values())]))
    is_shared = np.zeros(len(wanted), np.bool_)
    if len(wanted):
        table = _BitTable(wanted)
        for shingles, _ in _stream(train):
            maybe = shingles[table.may_hold(shingles)]
            places = np.searchsorted(wanted, maybe)
            places[places == len(wanted)] = 0
            is_shared[places[wanted[places] == maybe]] = True
    shared = wanted[is_shared]
    found: dict[str, Contamination] = {}
    for name, (shingles, documents, num_documents) in splits.items():
        hits = np.isin(shingles, shared)
        found[name] = Contamination(
            num_documents=num_documents,
            num_contaminated_documents=len(np.unique(documents[hits])),
            num_shingles=len(np.unique(shingles)),
            num_shared_shingles=len(np.unique(shingles[hits])),
        )
    return found


_EMPTY: _Words = np.empty(0, np.uint64)


class _BitTable:
    """A set of hashes that may err towards yes, one time in 32."""

    def __init__(self, hashes: _Words) -> None:
        num_bits = max(6, int(len(hashes) * _BITS_PER_SHINGLE - 1).bit_length())
        self._shift = np.uint64(64 - num_bits)
        self._bits = np.zeros(1 << (num_bits - 3), np.uint8)
        places = hashes >> self._shift
        np.bitwise_or.at(self._bits, places >> np.uint64(3), _bit(places))

    def may_hold(self, hashes: _Words) -> NDArray[np.bool_]:
        places = hashes >> self._shift
        hit: NDArray[np.bool_] = (self._bits[places >> np.uint64(3)] & _bit(places)) != 0
        return hit


def _bit(places: _Words) -> NDArray[np.uint8]:
    return np.left_shift(np.uint8(1), (places & np.uint64(7)).astype(np.uint8))


def _shingles_of(path: Path) -> tuple[_Words, NDArray[np.int64], int]:
    """Return a split's shingles, the document of each, and the number of documents."""
    parts = list(_stream(path))
    num_documents = pq.read_metadata(path).num_rows
    if not parts:
        return _EMPTY, np.empty(0, np.int64), num_documents
    shingles, documents = (np.concatenate(columns) for columns in zip(*parts, strict=True))
    return shingles, documents, num_documents


def _stream(path: Path) -> Iterator[tuple[_Words, NDArray[np.int64]]]:
    """Yield shingles and the document of each, piece by piece."""
    first = 0
    with pq.ParquetFile(path) as file:
        for batch in file.iter_batches(_BATCH_ROWS, columns=["text"]):
            text = batch.column(0)
            ends = np.frombuffer(text.buffers()[1], np.int32)
            offsets = ends[text.offset : text.offset + len(text) + 1].astype(np.int64)
            data = np.frombuffer(text.buffers()[2] or b"", np.uint8)
            for start, stop, documents in _pieces(offsets):
                shingles, place = _hash_shingles(data[start:stop], documents[0] - start)
                yield shingles, documents[1][place] + first
            first += len(text)


def _pieces(
    offsets: NDArray[np.int64],
) -> Iterator[tuple[int, int, tuple[NDArray[np.int64], NDArray[np.int64]]]]:
    """Cut texts into pieces: yield (start, stop, (beginnings of texts in it, their numbers))."""
    num_texts = len(offsets) - 1
    first = 0
    while first < num_texts:
        last = int(np.searchsorted(offsets, offsets[first] + _PIECE_BYTES, side="right")) - 1
        last = min(max(last, first + 1), num_texts)
        numbers = np.arange(first, last)
        for start in range(int(offsets[first]), max(int(offsets[last]), 1), _PIECE_BYTES):
            stop = min(start + _PIECE_BYTES, int(offsets[last]))
            if stop > start:
                yield start, stop, (np.maximum(offsets[first:last], start), numbers)
        first = last


def _hash_shingles(
    data: NDArray[np.uint8], beginnings: NDArray[np.int64]
) -> tuple[_Words, NDArray[np.int64]]:
    """Return the hash of every shingle in ``data``, and the position in ``beginnings`` of its text.

    A word's hash is a polynomial in its bytes, a shingle's one in its words' hashes, both modulo
    2**64 and taken as differences of running sums.
    """
    tables = _tables()
    codes = tables.codes[data]
    is_word = codes != 0
    before = np.empty_like(is_word)
    before[0], before[1:] = False, is_word[:-1]
    # A text's first byte begins a word even where the text before it ended in one.
    before[beginnings[beginnings < len(data)]] = False
    starts = np.flatnonzero(is_word & ~before)
    if len(starts) < SHINGLE_WORDS:
        return _EMPTY, np.empty(0, np.int64)
    ends = np.append(starts[1:], len(data))
    sums = np.zeros(len(data) + 1, np.uint64)
    np.cumsum(tables.word_powers[: len(data)] * codes, out=sums[1:])
    # Bytes between words have the code 0, so the sum up to the next word is the sum of this one.
    words = _mix((sums[ends] - sums[starts]) * tables.word_inverses[starts])
    sums = np.zeros(len(words) + 1, np.uint64)
    np.cumsum(words * tables.shingle_powers[: len(words)], out=sums[1:])
    num_shingles = len(words) - SHINGLE_WORDS + 1
    shingles = (sums[SHINGLE_WORDS:] - sums[:-SHINGLE_WORDS]) * tables.shingle_inverses[
        :num_shingles
    ]
    text = np.searchsorted(beginnings, starts, side="right") - 1
    is_within = text[:num_shingles] == text[SHINGLE_WORDS - 1 :]
    return _mix(shingles[is_within]), text[:num_shingles][is_within]


def _mix(values: _Words) -> _Words:
    mixed = (values ^ (values >> np.uint64(32))) * _MIX
    return mixed ^ (mixed >> np.uint64(29))


@dataclasses.dataclass(frozen=True)
class _Tables:
    """Byte codes (0 between words), and powers of both bases and of their inverses."""

    codes: NDArray[np.uint8]
    word_powers: _Words
    word_inverses: _Words
    shingle_powers: _Words
    shingle_inverses: _Words


@functools.cache
def _tables() -> _Tables:
    codes = np.zeros(256, np.uint8)
    for byte in range(256):
        character = bytes([byte])
        if byte >= 0x80 or character.isalnum():
            codes[byte] = character.lower()[0]
    return _Tables(
        codes,
        _powers(_WORD_BASE),
        _powers(pow(_WORD_BASE, -1, 2**64)),
        _powers(_SHINGLE_BASE),
        _powers(pow(_SHINGLE_BASE, -1, 2**64)),
    )


def _powers(base: int) -> _Words:
    """Return base**0, base**1, ... modulo 2**64, one for each byte of a piece."""
    factors = np.full(_PIECE_BYTES, base, np.uint64)
    factors[0] = 1
    return np.cumprod(factors, dtype=np.uint64)
