"""Domain datasets: the domain's documents, a general half, five splits.

`select_documents` decides by the index alone which documents make each split; `write_datasets`
then reads every documents file once and deals its rows to all the datasets that were asked for.
"""

import dataclasses
import functools
import logging
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from mdel_assets.data.document_index import ROLES, DocumentIndex, salted_hash
from mdel_assets.data.document_writer import open_writer
from mdel_assets.experiment_fields import SPLITS, Mixture

_log = logging.getLogger(__name__)

DATASET_SCHEMA = pa.schema(
    [
        ("text", pa.string()),
        ("document_id", pa.string()),
        ("num_bytes", pa.int64()),
        ("domain", pa.string()),
    ]
)
_ROW_GROUP_BYTES = 2 << 20


@dataclasses.dataclass(frozen=True)
class SplitSelection:
    """Positions in the index of one split's documents, ascending."""

    positions: NDArray[np.int64]
    num_domain_documents: int
    num_general_documents: int
    num_general_wanted: int


@dataclasses.dataclass(frozen=True)
class SplitCount:
    """Documents and UTF-8 bytes of one split, by half."""

    num_documents: int
    num_domain_documents: int
    num_general_documents: int
    num_general_wanted: int
    num_bytes: int
    num_domain_bytes: int


def select_documents(
    index: DocumentIndex, domain: str, *, mixture: Mixture
) -> dict[str, SplitSelection]:
    """Return the documents of every split of ``domain``'s dataset.

    ``train`` holds the domain's training documents and ``general_ratio`` times as many documents
    (or bytes) of the other domains. The evaluation splits are kept apart by half: ``*_domain`` and,
    drawn the same way, ``*_pile``.
    """
    key = index.domain_keys.index(domain) if domain in index.domain_keys else -1
    draw = _first_documents if mixture.compatible_with_mdel else _draw_general
    chosen: dict[str, SplitSelection] = {}
    for code, role in enumerate(ROLES):
        of_role = index.role == code
        own = np.flatnonzero(of_role & (index.domain == key))
        general, wanted = draw(index, own, np.flatnonzero(of_role), mixture, f"{domain}:{role}")
        halves = {f"{role}_domain": own, f"{role}_pile": general}
        if role == "train":
            halves = {"train": np.sort(np.concatenate([own, general]))}
        for split, positions in halves.items():
            chosen[split] = SplitSelection(
                positions=positions,
                num_domain_documents=0 if split.endswith("_pile") else len(own),
                num_general_documents=0 if split.endswith("_domain") else len(general),
                num_general_wanted=0 if split.endswith("_domain") else wanted,
            )
    return {split: chosen[split] for split in SPLITS}


def _draw_general(
    index: DocumentIndex,
    own: NDArray[np.int64],
    of_role: NDArray[np.int64],
    mixture: Mixture,
    salt: str,
) -> tuple[NDArray[np.int64], int]:
    """Draw from the other domains the documents with the lowest seeded hash of (document, domain).

    Return their positions, ascending, and how many were wanted. A lowest hash depends on nothing
    but the document, so the draw is uniform, and that of several shards is that of their union.
    """
    others = np.setdiff1d(of_role, own, assume_unique=True)
    ranks = salted_hash(index.ids[others], salt=f"general:{mixture.seed}:{salt}")
    ranked = others[np.argsort(ranks, kind="stable")]
    wanted = round(mixture.general_ratio * len(own))
    if mixture.match == "bytes":
        target = mixture.general_ratio * float(index.num_bytes[own].sum())
        sums = np.concatenate([[0], np.cumsum(index.num_bytes[ranked])])
        # The number of documents whose sum comes nearest to the target.
        wanted = int(np.abs(sums - target).argmin())
    return np.sort(ranked[:wanted]), wanted


def _first_documents(
    index: DocumentIndex,
    own: NDArray[np.int64],
    of_role: NDArray[np.int64],
    mixture: Mixture,
    salt: str,
) -> tuple[NDArray[np.int64], int]:
    """Take the shards' first documents, whatever their domain, as the ancestor did."""
    shard = np.array([file.shard for file in index.files], np.int32)[index.file[of_role]]
    order = of_role[np.lexsort((index.line_number[of_role], shard))]
    wanted = round(mixture.general_ratio * len(own))
    return np.sort(order[:wanted]), wanted


def write_datasets(
    index: DocumentIndex,
    selections: Mapping[str, Mapping[str, SplitSelection]],
    folders: Mapping[str, Path],
) -> dict[str, dict[str, SplitCount]]:
    """Write ``folders[domain]/<split>.parquet`` for every domain; return counts by split.

    Each documents file is read once, whatever the number of domains. Rows keep the index's order.
    """
    started = time.monotonic()
    sinks = [
        _Sink(folders[domain] / f"{split}.parquet", domain, selection)
        for domain, splits in selections.items()
        for split, selection in splits.items()
    ]
    with ThreadPoolExecutor(os.cpu_count()) as threads:
        for start, stop, table in _row_groups(index):
            rows = index.row[start:stop] - index.row[start]
            deal = functools.partial(_Sink.take, table=table, rows=rows, start=start)
            # Every split is one thread's at a time, and sees the row groups in their order.
            for _ in threads.map(deal, sinks):
                pass
    counts: dict[str, dict[str, SplitCount]] = {domain: {} for domain in selections}
    for sink in sinks:
        counts[sink.domain][sink.path.stem] = sink.close()
    for domain, folder in folders.items():
        (folder / "README.md").write_text(_dataset_card(domain, counts[domain]), "utf-8")
    num_rows, elapsed = sum(sink.num_taken for sink in sinks), time.monotonic() - started
    message = "%d datasets of %d documents written, %.0f documents/s"
    _log.info(message, len(folders), num_rows, num_rows / max(elapsed, 1e-9))
    return counts


class _Sink:
    """One split on its way to disk."""

    def __init__(self, path: Path, domain: str, selection: SplitSelection) -> None:
        self.path = path
        self.domain = domain
        self.selection = selection
        self.writer = open_writer(path, DATASET_SCHEMA)
        self.num_taken = 0
        self.pending: list[pa.Table] = []
        self.pending_bytes = self.num_bytes = self.num_domain_bytes = 0

    def take(self, *, table: pa.Table, rows: NDArray[np.int64], start: int) -> None:
        """Take what is this split's of ``table``.

        ``rows`` are the rows of ``table`` that the index holds from its position ``start`` on.
        """
        positions = self.selection.positions
        last = int(np.searchsorted(positions, start + len(rows)))
        if last > self.num_taken:
            chosen = positions[self.num_taken : last] - start
            self._write(table.take(pa.array(rows[chosen])))
            self.num_taken = last
            if last == len(positions):
                self.flush()

    def _write(self, table: pa.Table) -> None:
        size = int(pc.sum(table.column("num_bytes")).as_py())
        self.pending.append(table)
        self.pending_bytes += size
        self.num_bytes += size
        if table.column("domain")[0].as_py() == self.domain:
            self.num_domain_bytes += size
        if self.pending_bytes >= _ROW_GROUP_BYTES:
            self.flush()

    def close(self) -> SplitCount:
        """Finish the file and return its counts."""
        self.flush()
        self.writer.close()
        return SplitCount(
            num_documents=len(self.selection.positions),
            num_domain_documents=self.selection.num_domain_documents,
            num_general_documents=self.selection.num_general_documents,
            num_general_wanted=self.selection.num_general_wanted,
            num_bytes=self.num_bytes,
            num_domain_bytes=self.num_domain_bytes,
        )

    def flush(self) -> None:
        """Write what is pending as one row group."""
        if self.pending:
            self.writer.write_table(pa.concat_tables(self.pending).combine_chunks())
            self.pending, self.pending_bytes = [], 0


def _row_groups(index: DocumentIndex) -> Iterator[tuple[int, int, pa.Table]]:
    """Yield (start, stop, table): the row group whose surviving documents are start to stop.

    ``table`` begins at the row of index position ``start``.
    """
    start = 0
    for number, file in enumerate(index.files):
        parquet = pq.ParquetFile(file.path)
        first_row = 0
        file_stop = int(np.searchsorted(index.file, number, side="right"))
        for group in range(parquet.num_row_groups):
            last_row = first_row + parquet.metadata.row_group(group).num_rows
            stop = start + int(np.searchsorted(index.row[start:file_stop], last_row))
            if stop > start:
                table = parquet.read_row_group(group, columns=DATASET_SCHEMA.names[:3])
                domain = pa.array([file.domain]).take(pa.array(np.zeros(len(table), np.int64)))
                table = table.append_column("domain", domain).cast(DATASET_SCHEMA)
                yield start, stop, table.slice(int(index.row[start]) - first_row)
            start, first_row = stop, last_row


def _dataset_card(domain: str, counts: Mapping[str, SplitCount]) -> str:
    """Return a card that tells `datasets` which file is which split.

    Empty splits are left out: `datasets` refuses a whole folder for one of them.
    """
    filled = [split for split in SPLITS if counts[split].num_documents]
    if not filled:
        return f"# {domain}\n\nThe corpus has no document of this domain.\n"
    files = "\n".join(f"  - split: {split}\n    path: {split}.parquet" for split in filled)
    return f"---\nconfigs:\n- config_name: default\n  data_files:\n{files}\n---\n\n# {domain}\n"


def shared_documents(splits: Sequence[Path]) -> int:
    """Return how many document ids occur more than once over the given split files."""
    ids = pa.chunked_array(
        [
            chunk
            for path in splits
            for chunk in pq.read_table(path, columns=["document_id"]).column(0).chunks
        ],
        pa.string(),
    )
    return len(ids) - len(ids.unique())
