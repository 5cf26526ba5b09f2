"""Domain datasets: the domain's documents, a general half, five splits.

`selection.select_documents` decides by the index alone which documents make each split;
`write_datasets` then reads every documents file once and deals its rows to all the datasets that
were asked for.
"""

import dataclasses
import functools
import logging
import os
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from mdel_assets.data.document_index import ROLES, DocumentFile, DocumentIndex, Role, ids_of
from mdel_assets.data.document_writer import open_writer
from mdel_assets.data.selection import RoleSelection, Rows
from mdel_assets.experiment.fields import SPLITS

_log = logging.getLogger(__name__)

DATASET_SCHEMA = pa.schema(
    [
        ("text", pa.string()),
        ("document_id", pa.string()),
        ("num_bytes", pa.int64()),
        ("domain", pa.string()),
    ]
)
_COLUMNS_READ = ["text", "document_id", "num_bytes", "line_number"]
_ROW_GROUP_BYTES = 2 << 20


@dataclasses.dataclass(frozen=True)
class SplitCount:
    """Documents and UTF-8 bytes of one split, by half."""

    num_documents: int
    num_domain_documents: int
    num_general_documents: int
    num_general_wanted: int
    num_bytes: int
    num_domain_bytes: int


def write_datasets(
    index: DocumentIndex,
    selections: Mapping[str, Mapping[Role, RoleSelection]],
    folders: Mapping[str, Path],
) -> dict[str, dict[str, SplitCount]]:
    """Write ``folders[domain]/<split>.parquet`` for every domain; return counts by split.

    ``train`` holds the domain's own training documents and the general half; the evaluation splits
    are kept apart by half, ``*_domain`` and ``*_pile``. Each documents file is read once, whatever
    the number of domains. Rows keep the index's order.
    """
    started = time.monotonic()
    datasets = [_Dataset(domain, folders[domain], roles) for domain, roles in selections.items()]
    with ThreadPoolExecutor(os.cpu_count()) as threads:
        for group in _row_groups(index):
            # Every dataset is one thread's at a time, and sees the row groups in their order.
            for _ in threads.map(functools.partial(_Dataset.take, group=group), datasets):
                pass
    counts = {dataset.domain: dataset.close() for dataset in datasets}
    for domain, folder in folders.items():
        (folder / "README.md").write_text(_dataset_card(domain, counts[domain]), "utf-8")
    num_rows = sum(count.num_documents for splits in counts.values() for count in splits.values())
    elapsed = time.monotonic() - started
    message = "%d datasets of %d documents written, %.0f documents/s"
    _log.info(message, len(folders), num_rows, num_rows / max(elapsed, 1e-9))
    return counts


@dataclasses.dataclass(frozen=True)
class _Group:
    """The documents of a row group: the table, and which of its rows survive, by role."""

    domain: str
    table: pa.Table
    rows_of: Mapping[Role, tuple[NDArray[np.int64], Rows]]


class _Dataset:
    """One domain's splits on their way to disk."""

    def __init__(self, domain: str, folder: Path, selections: Mapping[Role, RoleSelection]) -> None:
        self.domain = domain
        self._selections = selections
        self._num_own = dict.fromkeys(ROLES, 0)
        self._sinks = {split: _Sink(folder / f"{split}.parquet", domain) for split in SPLITS}

    def take(self, group: _Group) -> None:
        """Take what is this dataset's of a row group."""
        for role, (places, rows) in group.rows_of.items():
            selection = self._selections[role]
            is_own = group.domain == self.domain
            drawn = np.zeros(len(places), np.int64)
            if selection.with_own or not is_own:
                drawn += selection.cutoff.holds(rows)
            own = np.full(len(places), int(is_own))
            self._num_own[role] += int(own.sum())
            if role == "train":
                self._sinks["train"].take(group.table, np.repeat(places, own + drawn))
                continue
            self._sinks[f"{role}_domain"].take(group.table, np.repeat(places, own))
            self._sinks[f"{role}_pile"].take(group.table, np.repeat(places, drawn))

    def close(self) -> dict[str, SplitCount]:
        """Finish the files and return their counts."""
        found = {}
        for role in ROLES:
            selection, num_own = self._selections[role], self._num_own[role]
            for split in ("train",) if role == "train" else (f"{role}_domain", f"{role}_pile"):
                sink = self._sinks[split]
                sink.close()
                is_general = not split.endswith("_domain")
                found[split] = SplitCount(
                    num_documents=sink.num_documents,
                    num_domain_documents=0 if split.endswith("_pile") else num_own,
                    num_general_documents=selection.num_general if is_general else 0,
                    num_general_wanted=selection.num_wanted if is_general else 0,
                    num_bytes=sink.num_bytes,
                    num_domain_bytes=sink.num_domain_bytes,
                )
        return {split: found[split] for split in SPLITS}


class _Sink:
    """One split on its way to disk."""

    def __init__(self, path: Path, domain: str) -> None:
        self.domain = domain
        self.writer = open_writer(path, DATASET_SCHEMA)
        self.num_documents = 0
        self.pending: list[pa.Table] = []
        self.pending_bytes = self.num_bytes = self.num_domain_bytes = 0

    def take(self, table: pa.Table, rows: NDArray[np.int64]) -> None:
        """Take ``rows`` of ``table``."""
        if len(rows):
            self.num_documents += len(rows)
            self._write(table.take(pa.array(rows)))

    def _write(self, table: pa.Table) -> None:
        size = int(pc.sum(table.column("num_bytes")).as_py())
        self.pending.append(table)
        self.pending_bytes += size
        self.num_bytes += size
        if table.column("domain")[0].as_py() == self.domain:
            self.num_domain_bytes += size
        if self.pending_bytes >= _ROW_GROUP_BYTES:
            self.flush()

    def close(self) -> None:
        """Finish the file."""
        self.flush()
        self.writer.close()

    def flush(self) -> None:
        """Write what is pending as one row group."""
        if self.pending:
            self.writer.write_table(pa.concat_tables(self.pending).combine_chunks())
            self.pending, self.pending_bytes = [], 0


def _row_groups(index: DocumentIndex) -> Iterator[_Group]:
    """Yield the documents files' row groups, one after the other."""
    first = 0
    for file in index.files:
        with pq.ParquetFile(file.path) as parquet:
            for number in range(parquet.num_row_groups):
                found = parquet.read_row_group(number, columns=_COLUMNS_READ)
                yield _group(index, file, found, first)
                first += len(found)


def _group(index: DocumentIndex, file: DocumentFile, found: pa.Table, first: int) -> _Group:
    """Return the documents of a row group that begins with the index's number ``first``."""
    table = found.select(DATASET_SCHEMA.names[:3])
    domain = pa.array([file.domain]).take(pa.array(np.zeros(len(table), np.int64)))
    table = table.append_column("domain", domain).cast(DATASET_SCHEMA)
    columns = found.column("document_id").chunks
    ids = np.concatenate([np.empty((0, 2), np.uint64), *map(ids_of, columns)])
    lines = found.column("line_number").to_numpy()
    role, survives = index.roles(ids, file), index.survives[first : first + len(ids)]
    rows_of = {}
    for code, name in enumerate(ROLES):
        places = np.flatnonzero((role == code) & survives)
        if len(places):
            rows_of[name] = places, Rows(first + places, ids[places], file.shard, lines[places])
    return _Group(file.domain, table, rows_of)


def _dataset_card(domain: str, counts: Mapping[str, SplitCount]) -> str:
    """Return a card that tells `datasets` which file is which split.

    Empty splits are left out: `datasets` refuses a whole folder for one of them.
    """
    filled = [split for split in SPLITS if counts[split].num_documents]
    if not filled:
        return f"# {domain}\n\nThe corpus has no document of this domain.\n"
    files = "\n".join(f"  - split: {split}\n    path: {split}.parquet" for split in filled)
    return f"---\nconfigs:\n- config_name: default\n  data_files:\n{files}\n---\n\n# {domain}\n"
