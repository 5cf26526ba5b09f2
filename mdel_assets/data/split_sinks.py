"""Where a split's rows go, row group by row group: into its file, or into a digest of them.

A `Sink` decides where row groups end and counts what it gets, whatever it hands them to. So the
digest of rows that are yet to be written equals that of the file that they would make.
"""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import xxhash
from numpy.typing import NDArray

from mdel_assets.data.document_index import ids_of
from mdel_assets.data.document_writer import open_writer

DATASET_SCHEMA = pa.schema(
    [
        ("text", pa.string()),
        ("document_id", pa.string()),
        ("num_bytes", pa.int64()),
        ("domain", pa.string()),
    ]
)
_ROW_GROUP_BYTES = 2 << 20


class Sink:
    """One split on its way to where its row groups go."""

    def __init__(self, domain: str, out: "SplitFile | Outline | Nowhere") -> None:
        self.domain = domain
        self.out = out
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
        """Bring out what is left."""
        self.flush()
        self.out.close()

    def flush(self) -> None:
        """Bring out what is pending as one row group."""
        if self.pending:
            self.out.write(pa.concat_tables(self.pending).combine_chunks())
            self.pending, self.pending_bytes = [], 0


class SplitFile:
    """A split's Parquet file."""

    def __init__(self, path: Path) -> None:
        self._writer = open_writer(path, DATASET_SCHEMA)

    def write(self, group: pa.Table) -> None:
        """Write one row group."""
        self._writer.write_table(group)

    def close(self) -> None:
        """Finish the file."""
        self._writer.close()


class Nowhere:
    """Where rows go that a file holds already."""

    def write(self, group: pa.Table) -> None:
        """Let the row group go."""

    def close(self) -> None:
        """Do nothing."""


class Outline:
    """The digest of a split's documents and their domains, row group by row group.

    A document's id is that of its text, so equal outlines are those of equal files.
    """

    def __init__(self) -> None:
        self._digest = xxhash.xxh3_128()

    @classmethod
    def of(cls, path: Path) -> "Outline":
        """Return the outline of a split's file."""
        found = cls()
        with pq.ParquetFile(path) as file:
            for number in range(file.num_row_groups):
                found.write(file.read_row_group(number, columns=["document_id", "domain"]))
        return found

    @property
    def digest(self) -> bytes:
        """16 bytes."""
        return self._digest.digest()

    def write(self, group: pa.Table) -> None:
        """Take one row group's ids and domains."""
        for chunk in group.column("document_id").chunks:
            self._digest.update(ids_of(chunk).tobytes())
        runs = pc.run_end_encode(group.column("domain").combine_chunks())
        domains = [*zip(runs.run_ends.to_pylist(), runs.values.to_pylist(), strict=True)]
        self._digest.update(repr(domains).encode())

    def close(self) -> None:
        """Do nothing."""
