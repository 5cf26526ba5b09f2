"""Select the documents of the splits of each domain's dataset.

A dataset has all documents of its own domain. Of the others it has those with the lowest seeded
hash of (document, domain), up to a *cutoff* hash. The cutoff is found by counting; only the few
documents near it are sorted. The hash depends only on the document, so the draw is uniform, and the
draw from several shards equals the draw from their union.
"""

import dataclasses
import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

from mdel_assets.data.document_index import ROLES, DocumentIndex, Role, salted_hash
from mdel_assets.experiment.fields import Mixture

# Ranges of hashes in which documents are counted, by the first bits.
_HASH_BITS = 12
_SHIFT = np.uint64(64 - _HASH_BITS)


@dataclasses.dataclass(frozen=True)
class Rows:
    """Documents of one role: arrays of N, their numbers in the index, ids, shard and lines."""

    numbers: NDArray[np.int64]
    ids: NDArray[np.uint64]
    shard: int
    line_numbers: NDArray[np.int64]


class Cutoff(Protocol):
    """Up to where documents are drawn."""

    def holds(self, rows: Rows) -> NDArray[np.bool_]:
        """Return which of ``rows`` are drawn."""


@dataclasses.dataclass(frozen=True)
class AllOrNone:
    """Every document is drawn, or none is."""

    is_all: bool

    def holds(self, rows: Rows) -> NDArray[np.bool_]:
        """Return the same for all."""
        return np.full(len(rows.numbers), self.is_all)


@dataclasses.dataclass(frozen=True)
class HashCutoff:
    """Draws documents up to a salted hash; among equal hashes, up to a document number."""

    salt: str
    last: tuple[int, int]

    def holds(self, rows: Rows) -> NDArray[np.bool_]:
        """Return which come before the last, or are it."""
        ranks = salted_hash(rows.ids, salt=self.salt)
        rank = np.uint64(self.last[0])
        found: NDArray[np.bool_] = (ranks < rank) | (
            (ranks == rank) & (rows.numbers <= self.last[1])
        )
        return found


@dataclasses.dataclass(frozen=True)
class LineCutoff:
    """Draws documents up to a line of a shard, in the order of shards and lines."""

    last: tuple[int, int]

    def holds(self, rows: Rows) -> NDArray[np.bool_]:
        """Return which come before the last, or are it."""
        shard, line = self.last
        if rows.shard != shard:
            return np.full(len(rows.numbers), rows.shard < shard)
        found: NDArray[np.bool_] = rows.line_numbers <= line
        return found


@dataclasses.dataclass(frozen=True)
class RoleSelection:
    """The general half of one role's documents for one domain.

    With ``with_own`` the domain's own documents may be drawn, too. ``num_wanted`` may be more than
    ``num_general``, the number of available documents.
    """

    cutoff: Cutoff
    num_general: int
    num_wanted: int
    with_own: bool = False


def select_documents(
    index: DocumentIndex, domains: Sequence[str], *, mixture: Mixture
) -> dict[str, dict[Role, RoleSelection]]:
    """Return, for each of ``domains`` and each role, which other documents its dataset holds.

    They are ``general_ratio`` times as many documents (or bytes) as the domain's own.
    """
    if mixture.compatible_with_mdel:
        return {domain: _first_documents(index, domain, mixture) for domain in domains}
    counts = _counted(index, domains, mixture)
    near = {
        (domain, role): found
        for (domain, role), count in counts.items()
        if (found := _Near.of(count, mixture)) is not None
    }
    for rows, num_bytes, role, domain in _by_role(index):
        for key, found in near.items():
            if key[1] == role and key[0] != domain:
                found.add(rows, num_bytes, salt=_salt(mixture, *key))
    return {
        domain: {role: _selection(counts, near, mixture, domain, role) for role in ROLES}
        for domain in domains
    }


@dataclasses.dataclass
class _Counts:
    """A domain's documents of a role, and the others' by the first bits of their hash."""

    num_own: int
    own_bytes: int
    num_others: NDArray[np.int64]
    other_bytes: NDArray[np.int64]


def _counted(
    index: DocumentIndex, domains: Sequence[str], mixture: Mixture
) -> dict[tuple[str, Role], _Counts]:
    size = 1 << _HASH_BITS
    counts = {
        (domain, role): _Counts(0, 0, np.zeros(size, np.int64), np.zeros(size, np.int64))
        for domain in domains
        for role in ROLES
    }
    with ThreadPoolExecutor(os.cpu_count()) as threads:
        for rows, num_bytes, role, owner in _by_role(index):
            if owner in domains:
                counts[owner, role].num_own += len(rows.ids)
                counts[owner, role].own_bytes += int(num_bytes.sum())

            def count(
                domain: str,
                rows: Rows = rows,
                num_bytes: NDArray[np.int64] = num_bytes,
                role: Role = role,
            ) -> None:
                first = salted_hash(rows.ids, salt=_salt(mixture, domain, role)) >> _SHIFT
                bins = first.astype(np.int64)
                found = counts[domain, role]
                found.num_others += np.bincount(bins, minlength=size)
                if mixture.match == "bytes":
                    weights = np.bincount(bins, num_bytes, minlength=size)
                    found.other_bytes += weights.astype(np.int64)

            for _ in threads.map(count, [domain for domain in domains if domain != owner]):
                pass
    return counts


def _salt(mixture: Mixture, domain: str, role: Role) -> str:
    return f"general:{mixture.seed}:{domain}:{role}"


def _by_role(
    index: DocumentIndex,
) -> Iterator[tuple[Rows, NDArray[np.int64], Role, str]]:
    """Yield surviving documents of one role and domain, some at a time, with their sizes."""
    nowhere = np.empty(0, np.int64)
    for part in index.documents():
        for code, role in enumerate(ROLES):
            of_role = np.flatnonzero((part.role == code) & part.survives)
            if len(of_role):
                rows = Rows(part.first + of_role, part.ids[of_role], part.file.shard, nowhere)
                yield rows, part.num_bytes[of_role], role, part.file.domain


@dataclasses.dataclass
class _Near:
    """The documents in the range of hashes that contains the last one drawn.

    ``before`` is the number of documents (or bytes) in lower ranges, ``target`` the number wanted
    in total.
    """

    bucket: int
    before: int
    num_before: int
    target: float
    by_bytes: bool
    parts: list[NDArray[np.uint64]] = dataclasses.field(default_factory=list)

    @classmethod
    def of(cls, counts: _Counts, mixture: Mixture) -> "_Near | None":
        """Return the range of the last one drawn; None if all are drawn, or none."""
        by_bytes = mixture.match == "bytes"
        amounts = counts.other_bytes if by_bytes else counts.num_others
        own = counts.own_bytes if by_bytes else counts.num_own
        target: float = (
            mixture.general_ratio * own if by_bytes else round(mixture.general_ratio * own)
        )
        sums = np.cumsum(amounts)
        if target <= 0 or not len(np.flatnonzero(counts.num_others)):
            return None
        if not by_bytes and target >= sums[-1]:
            return None
        last_filled = int(np.flatnonzero(counts.num_others)[-1])
        bucket = min(int(np.searchsorted(sums, target)), last_filled)
        before = int(sums[bucket - 1]) if bucket else 0
        return cls(bucket, before, int(counts.num_others[:bucket].sum()), target, by_bytes)

    def add(self, rows: Rows, num_bytes: NDArray[np.int64], *, salt: str) -> None:
        """Keep those of ``rows`` that lie in the range: (hash, number, size)."""
        ranks = salted_hash(rows.ids, salt=salt)
        inside = (ranks >> _SHIFT) == np.uint64(self.bucket)
        columns = (ranks[inside], rows.numbers[inside], num_bytes[inside])
        self.parts.append(np.column_stack([column.astype(np.uint64) for column in columns]))

    def last(self) -> tuple[int, tuple[int, int] | None]:
        """Return how many are drawn, and hash and number of the last (None: before the range)."""
        found = np.concatenate(self.parts)
        found = found[np.lexsort((found[:, 1], found[:, 0]))]
        if self.by_bytes:
            sums = np.concatenate([[0], np.cumsum(found[:, 2].astype(np.int64))]) + self.before
            # The number of documents whose sum comes nearest to the target.
            count = int(np.abs(sums - self.target).argmin())
        else:
            count = int(self.target) - self.before
        rank, number = found[count - 1, :2].tolist() if count else (0, 0)
        return self.num_before + count, (rank, number) if count else None


def _selection(
    counts: Mapping[tuple[str, Role], _Counts],
    near: Mapping[tuple[str, Role], _Near],
    mixture: Mixture,
    domain: str,
    role: Role,
) -> RoleSelection:
    own = counts[domain, role]
    available = int(own.num_others.sum())
    found = near.get((domain, role))
    if found is None:
        wanted = 0 if mixture.match == "bytes" else round(mixture.general_ratio * own.num_own)
        return RoleSelection(AllOrNone(wanted > 0), min(wanted, available), wanted)
    count, last = found.last()
    salt = _salt(mixture, domain, role)
    if last is None:
        # The range's first would be one too many: those of lower ranges are drawn.
        last = (found.bucket << int(_SHIFT), -1)
    return RoleSelection(HashCutoff(salt, last), count, count)


def _first_documents(
    index: DocumentIndex, domain: str, mixture: Mixture
) -> dict[Role, RoleSelection]:
    """Take the shards' first documents of any domain, as the original MDEL did."""
    num_own = dict.fromkeys(ROLES, 0)
    of_shard: dict[Role, dict[int, int]] = {role: {} for role in ROLES}
    for rows, _, role, owner in _by_role(index):
        num_own[role] += len(rows.ids) * (owner == domain)
        of_shard[role][rows.shard] = of_shard[role].get(rows.shard, 0) + len(rows.ids)
    found = {}
    for role in ROLES:
        wanted = left = round(mixture.general_ratio * num_own[role])
        available = sum(of_shard[role].values())
        if wanted == 0 or wanted >= available:
            cutoff: Cutoff = AllOrNone(wanted > 0)
        else:
            for shard, count in sorted(of_shard[role].items()):
                if left <= count:
                    lines = _line_numbers(index, role, shard)
                    cutoff = LineCutoff((shard, int(np.partition(lines, left - 1)[left - 1])))
                    break
                left -= count
        found[role] = RoleSelection(cutoff, min(wanted, available), wanted, with_own=True)
    return found


def _line_numbers(index: DocumentIndex, role: Role, shard: int) -> NDArray[np.int64]:
    """Return the lines of all surviving documents of a role in a shard."""
    lines: list[NDArray[np.int64]] = [np.empty(0, np.int64)]
    of_file: dict[str, NDArray[np.int64]] = {}
    starts: dict[str, int] = {}
    for part in index.documents():
        if part.file.shard != shard:
            continue
        path = str(part.file.path)
        if path not in of_file:
            table = pq.read_table(path, columns=["line_number"])
            of_file[path], starts[path] = table.column(0).to_numpy(), part.first
        chosen = (part.role == ROLES.index(role)) & part.survives
        own = of_file[path][part.first - starts[path] :][: len(chosen)]
        lines.append(own[chosen])
    return np.concatenate(lines)
