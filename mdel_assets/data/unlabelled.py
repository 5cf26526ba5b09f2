"""A corpus without labels: fit clusters to a sample of it, and route every shard by cluster.

Both begin with the ordinary pass over a shard, which writes all documents to one file. That file is
then sampled, or split by cluster, and removed.
"""

import contextlib
import dataclasses
import logging
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from mdel_assets.data.clusters import READ_CHARACTERS, ClusterFit, Clusters, fit_clusters
from mdel_assets.data.document_index import read_ids, salted_hash
from mdel_assets.data.document_writer import open_writer
from mdel_assets.data.shard_counts import DomainCount, ShardCounts
from mdel_assets.data.shard_pass import UNLABELLED, route_documents
from mdel_assets.experiment.domains import ClusteredDomains
from mdel_assets.experiment.fields import Domain, Source
from mdel_assets.machine.progress import Progress

_log = logging.getLogger(__name__)


def cluster_shard(
    shard: Path, folder: Path, *, domains: ClusteredDomains, source: Source
) -> ClusterFit:
    """Fit clusters to a seeded sample of the documents in ``shard`` and write them to ``folder``.

    Raises:
        ShardError: the shard cannot be read, or holds too few documents.

    """
    with (
        tempfile.TemporaryDirectory(prefix=".rejects-", dir=folder) as rejects,
        _unlabelled_file(shard, Path(rejects), source) as (path, _),
    ):
        ids = read_ids(path)
        ranks = salted_hash(ids, salt=f"clusters:{domains.seed}")
        # Duplicates have the same rank: one of each document is taken.
        _, first = np.unique(ranks, return_index=True)
        chosen = np.sort(first[: domains.num_documents])
        texts = [text for text in _beginnings(path, chosen) if text.strip()]
    _log.info("%s: clustering %d documents", shard.name, len(texts))
    return fit_clusters(texts, folder, num_clusters=domains.clusters, seed=domains.seed)


def route_by_cluster(
    shard: Path, folder: Path, *, clusters: Clusters, domains: Sequence[Domain], source: Source
) -> ShardCounts:
    """Do the same as `route_documents`, with a document's cluster instead of its label.

    Raises:
        ShardError: as `route_documents`.

    """
    with _unlabelled_file(shard, folder, source) as (path, counts), contextlib.ExitStack() as stack:
        file = pq.ParquetFile(path)
        writers: dict[str, pq.ParquetWriter] = {}
        found = {domain.key: DomainCount(0, 0) for domain in domains}
        progress = Progress(
            lambda p: f"{shard.name}: {100 * p.done / file.num_row_groups:.0f} % dealt to clusters",
            total=file.num_row_groups,
        )
        for group in range(file.num_row_groups):
            table = file.read_row_group(group)
            numbers = clusters.assign(table.column("text").to_pylist())
            for number in np.unique(numbers):
                key = domains[number].key
                own = table.filter(pa.array(numbers == number))
                if key not in writers:
                    writer = open_writer(folder / f"{key}.parquet", own.schema)
                    writers[key] = stack.enter_context(writer)
                writers[key].write_table(own)
                size = found[key].num_bytes + pc.sum(own.column("num_bytes")).as_py()
                found[key] = DomainCount(found[key].num_documents + len(own), size)
            progress.add(1)
    present = {key: count for key, count in found.items() if count.num_documents}
    return dataclasses.replace(counts, domains=present)


@contextlib.contextmanager
def _unlabelled_file(
    shard: Path, folder: Path, source: Source
) -> Iterator[tuple[Path, ShardCounts]]:
    """Yield all of a shard's documents as one temporary Parquet file.

    Rejected lines stay in ``folder``, even if the shard is refused.
    """
    with tempfile.TemporaryDirectory(prefix=".unlabelled-", dir=folder) as name:
        stage = Path(name)
        try:
            counts = route_documents(shard, stage, domains=None, source=source)
        finally:
            for path in stage.glob("*.parquet"):
                if path.stem != UNLABELLED.key:
                    path.rename(folder / path.name)
        yield stage / f"{UNLABELLED.key}.parquet", counts


def _beginnings(path: Path, rows: np.ndarray) -> Iterator[str]:
    """Yield the beginnings of the texts of a documents file in ``rows``, which ascend."""
    file = pq.ParquetFile(path)
    first = 0
    for group in range(file.num_row_groups):
        last = first + file.metadata.row_group(group).num_rows
        own = rows[(rows >= first) & (rows < last)] - first
        if len(own):
            texts = file.read_row_group(group, columns=["text"]).column("text").take(pa.array(own))
            yield from pc.utf8_slice_codeunits(texts, 0, READ_CHARACTERS).to_pylist()
        first = last
