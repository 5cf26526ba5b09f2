"""Domain datasets: the domain's documents, a general half, five splits.

`selection.select_documents` decides by the index alone which documents make each split;
`write_datasets` then reads every documents file once and deals its rows to all the datasets that
were asked for. Split files that would come out as they are already are linked instead: which these
are, a pass over ids alone tells, before any text is read.
"""

import dataclasses
import functools
import logging
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from mdel_assets.data.dataset_counts import SplitCount
from mdel_assets.data.document_index import ROLES, DocumentFile, DocumentIndex, Role, ids_of
from mdel_assets.data.selection import RoleSelection, Rows
from mdel_assets.data.split_sinks import DATASET_SCHEMA, Nowhere, Outline, Sink, SplitFile
from mdel_assets.experiment.fields import SPLITS
from mdel_assets.store.durable_files import link_or_copy

_log = logging.getLogger(__name__)

_INDEX_COLUMNS = ["document_id", "num_bytes", "line_number"]


def write_datasets(
    index: DocumentIndex,
    selections: Mapping[str, Mapping[Role, RoleSelection]],
    folders: Mapping[str, Path],
    *,
    earlier: Mapping[str, Path] | None = None,
) -> dict[str, dict[str, SplitCount]]:
    """Write ``folders[domain]/<split>.parquet`` for every domain; return counts by split.

    ``train`` holds the domain's own training documents and the general half; the evaluation splits
    are kept apart by half, ``*_domain`` and ``*_pile``. Each documents file is read once, whatever
    the number of domains. Rows keep the index's order. ``earlier`` are folders of whole datasets
    that this function wrote, by domain: their split files that hold the same rows are linked.
    """
    started = time.monotonic()
    unchanged, counts = _unchanged_splits(index, selections, earlier or {})
    for place, path in unchanged.items():
        link_or_copy(path, folders[place[0]] / path.name)
    changed = {
        domain: roles
        for domain, roles in selections.items()
        if any((domain, split) not in unchanged for split in SPLITS)
    }

    def sink_of(domain: str, split: str) -> Sink:
        if (domain, split) in unchanged:
            return Sink(domain, Nowhere())
        return Sink(domain, SplitFile(folders[domain] / f"{split}.parquet"))

    datasets = [_Dataset(domain, roles, sink_of) for domain, roles in changed.items()]
    if datasets:
        _deal(_row_groups(index, columns=["text", *_INDEX_COLUMNS]), datasets)
    counts |= {dataset.domain: dataset.close() for dataset in datasets}
    for domain, folder in folders.items():
        (folder / "README.md").write_text(_dataset_card(domain, counts[domain]), "utf-8")
    num_rows = sum(count.num_documents for domain in changed for count in counts[domain].values())
    elapsed = time.monotonic() - started
    message = "%d datasets of %d documents written, %.0f documents/s"
    _log.info(message, len(changed), num_rows, num_rows / max(elapsed, 1e-9))
    if same := len(folders) - len(changed):
        _log.info("%d datasets hold the same documents as before: their files are kept", same)
    return counts


def _unchanged_splits(
    index: DocumentIndex,
    selections: Mapping[str, Mapping[Role, RoleSelection]],
    earlier: Mapping[str, Path],
) -> tuple[dict[tuple[str, str], Path], dict[str, dict[str, SplitCount]]]:
    """Return the files of ``earlier`` datasets that need not be written, by domain and split.

    And the counts of the datasets that were looked at.
    """
    outlines: dict[tuple[str, str], Outline] = {}

    def sink_of(domain: str, split: str) -> Sink:
        outlines[domain, split] = Outline()
        return Sink(domain, outlines[domain, split])

    datasets = [_Dataset(domain, selections[domain], sink_of) for domain in earlier]
    if datasets:
        _deal(_row_groups(index, columns=_INDEX_COLUMNS), datasets)
    counts = {dataset.domain: dataset.close() for dataset in datasets}
    paths = {place: earlier[place[0]] / f"{place[1]}.parquet" for place in outlines}
    same = {
        place: path
        for place, path in paths.items()
        if Outline.of(path).digest == outlines[place].digest
    }
    return same, counts


def _deal(groups: Iterable["_Group"], datasets: Iterable["_Dataset"]) -> None:
    with ThreadPoolExecutor(os.cpu_count()) as threads:
        for group in groups:
            # Every dataset is one thread's at a time, and sees the row groups in their order.
            for _ in threads.map(functools.partial(_Dataset.take, group=group), datasets):
                pass


@dataclasses.dataclass(frozen=True)
class _Group:
    """The documents of a row group: the table, and which of its rows survive, by role."""

    domain: str
    table: pa.Table
    rows_of: Mapping[Role, tuple[NDArray[np.int64], Rows]]


class _Dataset:
    """One domain's splits on their way to disk."""

    def __init__(
        self,
        domain: str,
        selections: Mapping[Role, RoleSelection],
        sink_of: Callable[[str, str], Sink],
    ) -> None:
        self.domain = domain
        self._selections = selections
        self._num_own = dict.fromkeys(ROLES, 0)
        self._sinks = {split: sink_of(domain, split) for split in SPLITS}

    def take(self, group: _Group) -> None:
        """Take this dataset's rows of a row group."""
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


def _row_groups(index: DocumentIndex, *, columns: list[str]) -> Iterator[_Group]:
    """Yield the documents files' row groups, one after the other, with the columns wanted."""
    first = 0
    for file in index.files:
        with pq.ParquetFile(file.path) as parquet:
            for number in range(parquet.num_row_groups):
                found = parquet.read_row_group(number, columns=columns)
                yield _group(index, file, found, first)
                first += len(found)


def _group(index: DocumentIndex, file: DocumentFile, found: pa.Table, first: int) -> _Group:
    """Return the documents of a row group that begins with the index's number ``first``."""
    names = {*found.column_names, "domain"}
    schema = pa.schema([field for field in DATASET_SCHEMA if field.name in names])
    domain = pa.array([file.domain]).take(pa.array(np.zeros(len(found), np.int64)))
    table = found.append_column("domain", domain).select(schema.names).cast(schema)
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
