"""The index of all documents of all shards: id, place, split role; duplicates are found here.

An index row is a document on disk: (file, row). Documents are equal when their ids are; of equal
documents one survives, in the order test, validation, train, then by shard, domain and row. So no
document is in two splits, and training never sees an evaluation document.
"""

import dataclasses
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Literal, TypeVar

import numpy as np
import pyarrow.parquet as pq
import xxhash
from numpy.typing import NDArray

_Scalar = TypeVar("_Scalar", bound=np.generic)
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
    """One ``documents/<shard>/<domain>.parquet``, with the role of its shard."""

    path: Path
    domain: str
    role: Role


@dataclasses.dataclass(frozen=True)
class DuplicateCounts:
    """Documents removed: copies within a role, and copies of a document with a stronger role."""

    num_duplicates: int
    num_train_also_in_evaluation: int
    num_validation_also_in_test: int


@dataclasses.dataclass(frozen=True)
class DocumentIndex:
    """All surviving documents, in the order of ``files`` and rows.

    Arrays of N rows: ``ids`` (N, 2) uint64, ``file`` and ``row`` int64, ``role`` and ``domain``
    int8 positions in `ROLES` and ``domain_keys``.
    """

    files: tuple[DocumentFile, ...]
    domain_keys: tuple[str, ...]
    ids: NDArray[np.uint64]
    file: NDArray[np.int64]
    row: NDArray[np.int64]
    role: NDArray[np.int8]
    domain: NDArray[np.int8]
    duplicates: DuplicateCounts


def build_index(
    files: Sequence[DocumentFile], *, holdout_fraction: float, shard_roles: Collection[Role]
) -> DocumentIndex:
    """Read the ids of ``files``, assign roles, and drop duplicates.

    Where ``shard_roles`` lacks validation (or test), that share of the training documents is split
    off by a salted hash of the id, so copies never straddle.
    """
    domain_keys = tuple(dict.fromkeys(file.domain for file in files))
    ids, places, rows, roles, domains = [], [], [], [], []
    for position, file in enumerate(files):
        found = _read_ids(file.path)
        ids.append(found)
        places.append(np.full(len(found), position, np.int64))
        rows.append(np.arange(len(found), dtype=np.int64))
        domains.append(np.full(len(found), domain_keys.index(file.domain), np.int8))
        roles.append(_roles(found, file.role, shard_roles, holdout_fraction))
    all_ids = np.concatenate(ids) if ids else np.empty((0, 2), np.uint64)
    role = _concatenate(roles, np.int8)
    keep, duplicates = _first_of_equals(all_ids, role)
    return DocumentIndex(
        files=tuple(files),
        domain_keys=domain_keys,
        ids=all_ids[keep],
        file=_concatenate(places, np.int64)[keep],
        row=_concatenate(rows, np.int64)[keep],
        role=role[keep],
        domain=_concatenate(domains, np.int8)[keep],
        duplicates=duplicates,
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


def _read_ids(path: Path) -> NDArray[np.uint64]:
    column = pq.read_table(path, columns=["document_id"]).column(0)
    digits = b"".join(
        chunk.buffers()[2][chunk.offset * _ID_DIGITS :][: len(chunk) * _ID_DIGITS].to_pybytes()
        for chunk in column.chunks
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
    order = np.lexsort((np.arange(len(ids)), role, ids[:, 1], ids[:, 0]))
    ordered = ids[order]
    starts = np.ones(len(ids), np.bool_)
    starts[1:] = (ordered[1:] != ordered[:-1]).any(axis=1)
    keep[order] = starts
    first_role = role[order][np.flatnonzero(starts)[np.cumsum(starts) - 1]]
    lost, winner = role[order][~starts], first_role[~starts]
    validation = ROLES.index("validation")
    counts = DuplicateCounts(
        num_duplicates=int((lost == winner).sum()),
        num_train_also_in_evaluation=int(((lost == _TRAIN) & (winner != _TRAIN)).sum()),
        num_validation_also_in_test=int(((lost == validation) & (winner < validation)).sum()),
    )
    return keep, counts


def _concatenate(parts: list[NDArray[_Scalar]], kind: type[_Scalar]) -> NDArray[_Scalar]:
    return np.concatenate(parts) if parts else np.empty(0, kind)
