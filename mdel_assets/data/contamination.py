"""Contamination: how many evaluation documents share a passage with the training documents.

Definition: a *shingle* is a run of 13 words of one document, a word being a run of letters, digits
and non-ASCII characters, in lower case. An evaluation document is *contaminated* when at least one
of its shingles occurs in a training document. The index has removed exact duplicates before, so
this finds near duplicates, quotations and boilerplate. Source: Brown et al. 2020, appendix C, which
also uses 13-grams.

Shingles are compared by 64-bit hashes. Those of the evaluation splits are sorted in a file.
Training text is streamed, and a bit table filters out nearly all of its shingles before they are
searched in the file. Memory holds only the table and, while sorting, one bucket of hashes.
"""

import dataclasses
import functools
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Self

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

from mdel_assets.data.dataset_counts import Contamination
from mdel_assets.data.temporary_columns import TemporaryColumn, first_bits

SHINGLE_WORDS = 13
_PIECE_BYTES = 1 << 20
_BITS_PER_SHINGLE, _MAX_BITS = 32, 1 << 30
# Shingles sorted at a time, and the most text that usually has so many.
_SHINGLES_PER_BUCKET, _BYTES_PER_SHINGLE = 1 << 22, 4
_MAX_BUCKETS = 64
_WORD_BASE, _SHINGLE_BASE = 0x9E3779B97F4A7C15, 0xD6E8FEB86659FD93
_MIX = np.uint64(0xBF58476D1CE4E5B9)

_Words = NDArray[np.uint64]


def measure_contamination(
    train: Path, evaluation: Mapping[str, Path], *, work_folder: Path
) -> dict[str, Contamination]:
    """Compare each evaluation split (a Parquet file with ``text``) with ``train``.

    ``num_shingles`` counts a split's distinct shingles. All text is streamed. Temporary files in
    ``work_folder`` take some 20 bytes per word of evaluation text. A text above 1 MiB is cut into
    pieces; the few shingles across a cut are ignored.
    """
    with ExitStack() as stack:
        splits = {
            name: stack.enter_context(_Shingles(path, work_folder))
            for name, path in evaluation.items()
        }
        num_buckets = max((split.num_buckets for split in splits.values()), default=1)
        wanted_file = stack.enter_context(TemporaryColumn(work_folder, np.uint64))
        for bucket in range(num_buckets):
            own = [split.sorted_bucket(bucket, num_buckets) for split in splits.values()]
            wanted_file.append(_sorted_unique(np.concatenate([_EMPTY, *own])))
        shared = _shared(train, wanted_file)
        return {name: _contamination(split, shared) for name, split in splits.items()}


def _shared(train: Path, wanted_file: TemporaryColumn) -> _Words:
    """Return, sorted, the shingles of ``wanted_file`` that occur in the training text."""
    wanted = wanted_file.mapped()
    if not len(wanted):
        return _EMPTY
    is_shared = np.zeros(len(wanted), np.bool_)
    table = _BitTable(wanted)
    for shingles, _ in _stream(train):
        maybe = shingles[table.may_hold(shingles)]
        is_shared[_places(maybe, wanted)] = True
    return wanted[is_shared]


def _contamination(split: "_Shingles", shared: _Words) -> Contamination:
    """Count the shingles of a split that are ``shared``, and the documents that hold some."""
    is_contaminated = np.zeros(split.num_documents, np.bool_)
    if len(shared):
        for shingles, documents in _stream(split.path):
            is_contaminated[documents[_is_in(shingles, shared)]] = True
    return Contamination(
        num_documents=split.num_documents,
        num_contaminated_documents=int(is_contaminated.sum()),
        num_shingles=split.num_different,
        num_shared_shingles=len(_places(shared, split.different.mapped())),
    )


_EMPTY: _Words = np.empty(0, np.uint64)


def _sorted_unique(hashes: _Words) -> _Words:
    """Return each of ``hashes`` once, ascending; numpy's own takes a hundred times as long."""
    ordered = np.sort(hashes)
    is_first = np.ones(len(ordered), np.bool_)
    is_first[1:] = ordered[1:] != ordered[:-1]
    return ordered[is_first]


def _is_in(hashes: _Words, known: _Words) -> NDArray[np.bool_]:
    """Return which of ``hashes`` are among ``known``, which are sorted and at least one."""
    places = np.minimum(np.searchsorted(known, hashes), len(known) - 1)
    found: NDArray[np.bool_] = known[places] == hashes
    return found


def _places(hashes: _Words, known: _Words) -> NDArray[np.int64]:
    """Return the positions in ``known``, which is sorted, of the ``hashes`` that it holds."""
    if not len(known):
        return np.empty(0, np.int64)
    places = np.minimum(np.searchsorted(known, hashes), len(known) - 1)
    found: NDArray[np.int64] = places[known[places] == hashes]
    return found


class _Shingles:
    """The shingles of an evaluation split: by their first bits in buckets, then sorted."""

    def __init__(self, path: Path, work_folder: Path) -> None:
        self.path = path
        metadata = pq.read_metadata(path)
        self.num_documents = metadata.num_rows
        size = sum(metadata.row_group(n).total_byte_size for n in range(metadata.num_row_groups))
        expected = size // _BYTES_PER_SHINGLE // _SHINGLES_PER_BUCKET
        self.num_buckets = min(_MAX_BUCKETS, 1 << int(expected).bit_length())
        self.num_different = 0
        self._stack = ExitStack()
        self.different = self._stack.enter_context(TemporaryColumn(work_folder, np.uint64))
        self._buckets = [
            self._stack.enter_context(TemporaryColumn(work_folder, np.uint64))
            for _ in range(self.num_buckets)
        ]

    def __enter__(self) -> Self:
        for shingles, _ in _stream(self.path):
            bucket_of = first_bits(shingles, self.num_buckets)
            for number, bucket in enumerate(self._buckets):
                bucket.append(shingles[bucket_of == number])
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def sorted_bucket(self, number: int, num_buckets: int) -> _Words:
        """Return the distinct shingles of one of ``num_buckets``, which are requested in order."""
        per_own = num_buckets // self.num_buckets
        whole = self._buckets[number // per_own].mapped()
        own = _sorted_unique(whole[first_bits(whole, num_buckets) == number])
        self.different.append(own)
        self.num_different += len(own)
        return own


def memory_wanted(num_bytes: int) -> int:
    """Estimate the memory needed for evaluation splits with ``num_bytes`` of text.

    It is a byte per shingle, the bit table, one bucket while it is sorted, and pieces in progress.
    """
    num_shingles = num_bytes // _BYTES_PER_SHINGLE
    table = min(num_shingles * _BITS_PER_SHINGLE, _MAX_BITS) // 8
    return num_shingles + table + 32 * min(num_shingles, _SHINGLES_PER_BUCKET) + (64 << 20)


class _BitTable:
    """A set of hashes with false positives: one in 32, more if there are many hashes."""

    def __init__(self, hashes: _Words) -> None:
        num_bits = max(6, int(len(hashes) * _BITS_PER_SHINGLE - 1).bit_length())
        num_bits = min(num_bits, _MAX_BITS.bit_length() - 1)
        self._shift = np.uint64(64 - num_bits)
        self._bits = np.zeros(1 << (num_bits - 3), np.uint8)
        for first in range(0, len(hashes), _SHINGLES_PER_BUCKET):
            places = hashes[first : first + _SHINGLES_PER_BUCKET] >> self._shift
            np.bitwise_or.at(self._bits, places >> np.uint64(3), _bit(places))

    def may_hold(self, hashes: _Words) -> NDArray[np.bool_]:
        places = hashes >> self._shift
        hit: NDArray[np.bool_] = (self._bits[places >> np.uint64(3)] & _bit(places)) != 0
        return hit


def _bit(places: _Words) -> NDArray[np.uint8]:
    return np.left_shift(np.uint8(1), (places & np.uint64(7)).astype(np.uint8))


def _stream(path: Path) -> Iterator[tuple[_Words, NDArray[np.int64]]]:
    """Yield shingles and the document of each, piece by piece."""
    first = 0
    with pq.ParquetFile(path) as file:
        for group in range(file.num_row_groups):
            for text in file.read_row_group(group, columns=["text"]).column(0).chunks:
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
