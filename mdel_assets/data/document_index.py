"""The index of all documents of all shards: id, place, split role; duplicates are found here.

An index row is a document on disk: (file, row). Documents are equal when their ids are; of equal
documents one survives, in the order test, validation, train, then by shard, domain and row. So no
document is in two splits, and training never sees an evaluation document.
"""

import dataclasses
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow.parquet as pq
import xxhash
from numpy.typing import NDArray

Role = Literal["test", "validation", "train"]
ROLES: tuple[Role, ...] = ("test", "validation", "train")
_ID_DIGITS = 32
_TRAIN = ROLES.index("train")
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_MIX = (
    (np.uint64(30), np.uint64(0xBF58476D1CE4E5B9)),
    (np.uint64(27), np.uint64(0x94D049BB133111EB)),
)


@dataclasses.dataclass(frozen=True)
class DocumentFile:
    """One ``documents/<shard>/<domain>.parquet``: the shard's role and place among the shards."""

    path: Path
    domain: str
    role: Role
    shard: int = 0


@dataclasses.dataclass(frozen=True)
class DuplicateCounts:
    """Documents removed: copies within a role, and copies of a document with a stronger role."""

    num_duplicates: int
    num_train_also_in_evaluation: int
    num_validation_also_in_test: int


@dataclasses.dataclass(frozen=True)
class DocumentIndex:
    """All surviving documents, in the order of ``files`` and rows.

    Arrays of N rows: ``ids`` (N, 2) uint64; ``file`` int32 and ``row`` int64, where the document
    lies; ``num_bytes`` int64 of its UTF-8 text; ``line_number`` int64 in its shard; ``role`` and
    ``domain``, int8 and int16 positions in `ROLES` and ``domain_keys``.
    """

    files: tuple[DocumentFile, ...]
    domain_keys: tuple[str, ...]
    ids: NDArray[np.uint64]
    file: NDArray[np.int32]
    row: NDArray[np.int64]
    num_bytes: NDArray[np.int64]
    line_number: NDArray[np.int64]
    role: NDArray[np.int8]
    domain: NDArray[np.int16]
    duplicates: DuplicateCounts


def build_index(
    files: Sequence[DocumentFile],
    *,
    holdout_fraction: float,
    shard_roles: Collection[Role],
    keep_copies: bool = False,
) -> DocumentIndex:
    """Read the ids of ``files``, assign roles, and drop duplicates unless ``keep_copies``.

    Where ``shard_roles`` lacks validation (or test), that share of the training documents is split
    off by a salted hash of the id, so copies never straddle.
    """
    domain_keys = tuple(dict.fromkeys(place.domain for place in files))
    parts: list[tuple[NDArray[Any], ...]] = []
    for position, place in enumerate(files):
        found, sizes, numbers = _read_columns(place.path)
        parts.append(
            (
                found,
                np.full(len(found), position, np.int32),
                np.arange(len(found), dtype=np.int64),
                sizes,
                numbers,
                _roles(found, place.role, shard_roles, holdout_fraction),
                np.full(len(found), domain_keys.index(place.domain), np.int16),
            )
        )
    if parts:
        arrays = [np.concatenate(columns) for columns in zip(*parts, strict=True)]
        parts.clear()
    else:
        kinds = (np.int32, np.int64, np.int64, np.int64, np.int8, np.int16)
        arrays = [np.empty((0, 2), np.uint64), *(np.empty(0, kind) for kind in kinds)]
    duplicates = DuplicateCounts(0, 0, 0)
    if not keep_copies:
        keep, duplicates = _first_of_equals(arrays[0], arrays[5])
        for position, array in enumerate(arrays):
            arrays[position] = array[keep]
    ids, file, row, num_bytes, line_number, role, domain = arrays
    return DocumentIndex(
        tuple(files), domain_keys, ids, file, row, num_bytes, line_number, role, domain, duplicates
    )


def salted_hash(ids: NDArray[np.uint64], *, salt: str) -> NDArray[np.uint64]:
    """Return one uniform 64-bit number per id, independent between salts (splitmix64)."""
    offset = np.uint64(xxhash.xxh3_64_intdigest(salt.encode()))
    with np.errstate(over="ignore"):
        value = (ids[:, 0] ^ offset) + _GOLDEN * (ids[:, 1] | np.uint64(1))
        for shift, factor in _MIX:
            value = (value ^ (value >> shift)) * factor
        mixed: NDArray[np.uint64] = value ^ (value >> np.uint64(31))
        return mixed


def _read_columns(
    path: Path,
) -> tuple[NDArray[np.uint64], NDArray[np.int64], NDArray[np.int64]]:
    """Return the (N, 2) ids, the texts' sizes in bytes and the line numbers of a documents file."""
    table = pq.read_table(path, columns=["num_bytes", "line_number"])
    return (
        read_ids(path),
        table.column("num_bytes").to_numpy(),
        table.column("line_number").to_numpy(),
    )


def read_ids(path: Path) -> NDArray[np.uint64]:
    """Return the (N, 2) ids of the documents in a documents file."""
    ids = pq.read_table(path, columns=["document_id"]).column(0)
    digits = b"".join(
        chunk.buffers()[2][chunk.offset * _ID_DIGITS :][: len(chunk) * _ID_DIGITS].to_pybytes()
        for chunk in ids.chunks
        if len(chunk)
    )
    numbers = np.frombuffer(bytes.fromhex(digits.decode("ascii")), ">u8")
    return numbers.reshape(-1, 2).astype(np.uint64)


def _roles(
    ids: NDArray[np.uint64],
    role: Role,
    shard_roles: Collection[Role],
    holdout_fraction: float,
) -> NDArray[np.int8]:
    if role != "train":
        return np.full(len(ids), ROLES.index(role), np.int8)
    found = np.full(len(ids), _TRAIN, np.int8)
    share = salted_hash(ids, salt="holdout").astype(np.float64) / 2.0**64
    low = 0.0
    for held_out in ("test", "validation"):
        if held_out not in shard_roles:
            found[(share >= low) & (share < low + holdout_fraction)] = ROLES.index(held_out)
            low += holdout_fraction
    return found


def _first_of_equals(
    ids: NDArray[np.uint64], role: NDArray[np.int8]
) -> tuple[NDArray[np.bool_], DuplicateCounts]:
    keep = np.ones(len(ids), np.bool_)
    if not len(ids):
        return keep, DuplicateCounts(0, 0, 0)
    # Groups of equal ids, in each the strongest role first and then the order on disk.
    order = np.lexsort((role, ids[:, 1], ids[:, 0]))
    starts = np.zeros(len(ids), np.bool_)
    starts[0] = True
    for half in (0, 1):
        ordered = ids[order, half]
        starts[1:] |= ordered[1:] != ordered[:-1]
    keep[order] = starts
    begins, copies = np.flatnonzero(starts), np.flatnonzero(~starts)
    lost = role[order[copies]]
    winner = role[order[begins[np.searchsorted(begins, copies) - 1]]]
    validation = ROLES.index("validation")
    counts = DuplicateCounts(
        num_duplicates=int((lost == winner).sum()),
        num_train_also_in_evaluation=int(((lost == _TRAIN) & (winner != _TRAIN)).sum()),
        num_validation_also_in_test=int(((lost == validation) & (winner < validation)).sum()),
    )
    return keep, counts
