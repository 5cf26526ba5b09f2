"""The index of all documents of all shards: id, size and split role. It finds duplicates.

An index row is a document on disk: (file, row), numbered through all files. Documents are equal if
their ids are. Of equal documents one survives, in the order test, validation, train, then by shard,
domain and row. So no document is in two splits, and training never sees an evaluation document. Ids
and sizes are in files while the index is open; memory holds one byte per document.
"""

import dataclasses
from collections.abc import Collection, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import xxhash
from numpy.typing import NDArray

from mdel_assets.data.temporary_columns import TemporaryColumn, first_bits

Role = Literal["test", "validation", "train"]
ROLES: tuple[Role, ...] = ("test", "validation", "train")
_ID_DIGITS = 32
# Documents read at a time, and documents compared with each other at a time.
_ROWS_PER_CHUNK, _ROWS_PER_BUCKET, _MAX_BUCKETS = 1 << 18, 1 << 21, 256
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
    """Removed duplicates: within a role, and of a document with a stronger role."""

    num_duplicates: int
    num_train_also_in_evaluation: int
    num_validation_also_in_test: int


@dataclasses.dataclass(frozen=True)
class Documents:
    """Consecutive documents of ``file``; in the index they are numbered from ``first`` on.

    Arrays of N rows: ``ids`` (N, 2) uint64; ``num_bytes`` int64 of the UTF-8 texts; ``role`` int8
    positions in `ROLES`; ``survives``, false for a duplicate of another document.
    """

    file: DocumentFile
    first: int
    ids: NDArray[np.uint64]
    num_bytes: NDArray[np.int64]
    role: NDArray[np.int8]
    survives: NDArray[np.bool_]


class DocumentIndex:
    """All documents, in the order of ``files`` and rows, and which of them survive.

    If ``shard_roles`` lacks validation (or test), ``holdout_fraction`` of the training documents is
    held out for it by a salted hash of the id, so duplicates always get the same role.
    ``keep_copies`` keeps duplicates. The index is a context manager: its files in ``work_folder``
    take 24 bytes per document, 48 while duplicates are found.
    """

    def __init__(
        self,
        files: Sequence[DocumentFile],
        *,
        holdout_fraction: float,
        shard_roles: Collection[Role],
        work_folder: Path,
        keep_copies: bool = False,
    ) -> None:
        self.files = tuple(files)
        self._holdout_fraction = holdout_fraction
        self._shard_roles = frozenset(shard_roles)
        self._work_folder = work_folder
        self._stack = ExitStack()
        self._ids = self._stack.enter_context(TemporaryColumn(work_folder, np.uint64, width=2))
        self._sizes = self._stack.enter_context(TemporaryColumn(work_folder, np.int64))
        counts = [pq.read_metadata(file.path).num_rows for file in self.files]
        self._starts = np.concatenate([[0], np.cumsum(counts, dtype=np.int64)])
        self.survives = np.ones(int(self._starts[-1]), np.bool_)
        self.duplicates = DuplicateCounts(0, 0, 0)
        try:
            self._read(finds_copies=not keep_copies)
        except BaseException:
            self._stack.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    @property
    def num_bytes(self) -> int:
        """UTF-8 bytes of all surviving documents."""
        return sum(int(part.num_bytes[part.survives].sum()) for part in self.documents())

    def documents(self) -> Iterator[Documents]:
        """Yield all documents, including duplicates, some at a time."""
        for number, file in enumerate(self.files):
            start, stop = int(self._starts[number]), int(self._starts[number + 1])
            for first in range(start, stop, _ROWS_PER_CHUNK):
                last = min(first + _ROWS_PER_CHUNK, stop)
                ids = self._ids.read(first, last)
                yield Documents(
                    file=file,
                    first=first,
                    ids=ids,
                    num_bytes=self._sizes.read(first, last),
                    role=self.roles(ids, file),
                    survives=self.survives[first:last],
                )

    def roles(self, ids: NDArray[np.uint64], file: DocumentFile) -> NDArray[np.int8]:
        """Return the roles, positions in `ROLES`, of documents of ``file``."""
        return _roles(ids, file.role, self._shard_roles, self._holdout_fraction)

    def _read(self, *, finds_copies: bool) -> None:
        """Read ids and sizes into the columns, and find duplicates.

        Equal ids go into the same bucket, and a bucket is small enough to be sorted.
        """
        total = int(self._starts[-1])
        num_buckets = min(_MAX_BUCKETS, 1 << (total // _ROWS_PER_BUCKET).bit_length())
        with ExitStack() as stack:
            buckets = [
                stack.enter_context(TemporaryColumn(self._work_folder, np.uint64, width=3))
                for _ in range(num_buckets if finds_copies else 0)
            ]
            first = 0
            for file in self.files:
                for ids, sizes in _read_columns(file.path):
                    self._ids.append(ids)
                    self._sizes.append(sizes)
                    numbers = np.arange(first, first + len(ids), dtype=np.uint64)
                    _deal(np.column_stack([ids, numbers]), buckets)
                    first += len(ids)
            found = [self._mark_copies(bucket) for bucket in buckets]
        if found:
            columns = zip(*map(dataclasses.astuple, found), strict=True)
            self.duplicates = DuplicateCounts(*map(sum, columns))

    def _mark_copies(self, bucket: TemporaryColumn) -> DuplicateCounts:
        """Mark the rows (id, number) of a bucket that do not survive; count them by cause."""
        rows = bucket.read(0, len(bucket))
        order = np.argsort(rows[:, 0], kind="stable")
        halves = rows[order, 0]
        follows = np.zeros(len(rows) + 1, np.bool_)
        follows[1:-1] = halves[1:] == halves[:-1]
        # Nearly all ids are unique; possible duplicates keep the index's order.
        alike = rows[np.sort(order[follows[:-1] | follows[1:]])]
        numbers = alike[:, 2].astype(np.int64)
        file_of = np.searchsorted(self._starts, numbers, side="right") - 1
        role = np.zeros(len(alike), np.int8)
        for file in set(file_of.tolist()):
            role[file_of == file] = self.roles(alike[file_of == file, :2], self.files[file])
        keep, counts = _first_of_equals(alike[:, :2], role)
        self.survives[numbers[~keep]] = False
        return counts


def _deal(rows: NDArray[np.uint64], buckets: Sequence[TemporaryColumn]) -> None:
    """Append each row to the bucket that its first number belongs to."""
    if len(buckets) < 2:
        for bucket in buckets:
            bucket.append(rows)
        return
    bucket_of = first_bits(rows[:, 0], len(buckets))
    order = np.argsort(bucket_of, kind="stable")
    ends = np.cumsum(np.bincount(bucket_of, minlength=len(buckets)))
    for bucket, part in zip(buckets, np.split(rows[order], ends[:-1]), strict=True):
        bucket.append(part)


def salted_hash(ids: NDArray[np.uint64], *, salt: str) -> NDArray[np.uint64]:
    """Return one uniform 64-bit number per id, independent between salts (splitmix64)."""
    offset = np.uint64(xxhash.xxh3_64_intdigest(salt.encode()))
    with np.errstate(over="ignore"):
        return _mixed((ids[:, 0] ^ offset) + _GOLDEN * (ids[:, 1] | np.uint64(1)))


def numbered_hashes(ids: NDArray[np.uint64], numbers: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Return (numbers, ids) uniform 64-bit numbers: the splitmix64 sequence that each id begins."""
    with np.errstate(over="ignore"):
        return _mixed(ids + _GOLDEN * (numbers[:, None] + np.uint64(1)))


def _mixed(value: NDArray[np.uint64]) -> NDArray[np.uint64]:
    for shift, factor in _MIX:
        value = (value ^ (value >> shift)) * factor
    mixed: NDArray[np.uint64] = value ^ (value >> np.uint64(31))
    return mixed


def _read_columns(path: Path) -> Iterator[tuple[NDArray[np.uint64], NDArray[np.int64]]]:
    """Yield the (N, 2) ids and the texts' sizes in bytes of a documents file, some at a time."""
    with pq.ParquetFile(path) as file:
        for batch in file.iter_batches(_ROWS_PER_CHUNK, columns=["document_id", "num_bytes"]):
            yield ids_of(batch.column("document_id")), batch.column("num_bytes").to_numpy()


def read_ids(path: Path) -> NDArray[np.uint64]:
    """Return the (N, 2) ids of the documents in a documents file."""
    column = pq.read_table(path, columns=["document_id"]).column(0)
    return np.concatenate([np.empty((0, 2), np.uint64), *map(ids_of, column.chunks)])


def ids_of(column: pa.StringArray) -> NDArray[np.uint64]:
    """Return the (N, 2) numbers of document ids."""
    if not len(column):
        return np.empty((0, 2), np.uint64)
    digits: Any = column.buffers()[2]
    start = column.offset * _ID_DIGITS
    own = digits.slice(start, len(column) * _ID_DIGITS).to_pybytes()
    numbers = np.frombuffer(bytes.fromhex(own.decode("ascii")), ">u8")
    return numbers.reshape(-1, 2).astype(np.uint64)


def count_copies(splits: Sequence[Path], *, work_folder: Path) -> int:
    """Return how many documents of the given split files have an id that occurred before."""
    total = sum(pq.read_metadata(path).num_rows for path in splits)
    num_buckets = min(_MAX_BUCKETS, 1 << (total // _ROWS_PER_BUCKET).bit_length())
    num_copies = 0
    with ExitStack() as stack:
        buckets = [
            stack.enter_context(TemporaryColumn(work_folder, np.uint64, width=2))
            for _ in range(num_buckets)
        ]
        for path in splits:
            with pq.ParquetFile(path) as file:
                for batch in file.iter_batches(_ROWS_PER_CHUNK, columns=["document_id"]):
                    _deal(ids_of(batch.column(0)), buckets)
        for bucket in buckets:
            rows = bucket.read(0, len(bucket))
            ordered = rows[np.lexsort((rows[:, 1], rows[:, 0]))]
            num_copies += int((ordered[1:] == ordered[:-1]).all(axis=1).sum())
    return num_copies


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
