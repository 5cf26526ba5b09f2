"""Read documents of dataset files by number, on demand, a few at a time.

A split may hold millions of documents while a training reads a few thousand. Only the row groups
with those are read, and memory holds only some MiB of text at a time.
"""

import dataclasses
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

_MAX_READ_BYTES, _MIN_READ_BYTES = 8 << 20, 1 << 16
_NUMBERS_PER_STEP = 4096
_MAX_THREADS = 8


@dataclasses.dataclass(frozen=True)
class _File:
    """A split file: the row behind each row group's last, the groups' bytes of text, rows chosen.

    ``rows`` None means all of them.
    """

    path: Path
    metadata: pq.FileMetaData
    ends: NDArray[np.int64]
    bytes_per_row: NDArray[np.float64]
    rows: NDArray[np.int64] | None

    def __len__(self) -> int:
        if self.rows is not None:
            return len(self.rows)
        return int(self.ends[-1]) if len(self.ends) else 0

    def row_of(self, numbers: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the file's rows of documents counted among the chosen ones."""
        return numbers if self.rows is None else self.rows[numbers]

    def group_of(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the row group of each row."""
        found: NDArray[np.int64] = np.searchsorted(self.ends, rows, side="right")
        return found

    def read(self, group: int, rows: NDArray[np.int64]) -> list[str]:
        """Return the texts of ``rows``, which lie in one row group."""
        start = int(self.ends[group - 1]) if group else 0
        with pq.ParquetFile(self.path, metadata=self.metadata) as parquet:
            column = parquet.read_row_group(group, columns=["text"], use_threads=False).column(0)
        texts: list[str] = column.take(rows - start).to_pylist()
        return texts


class SplitDocuments:
    """Documents of one or more split files (Parquet with ``text``), numbered in their order."""

    def __init__(self, files: Sequence[_File]) -> None:
        self._files = tuple(files)
        self._starts = np.concatenate([[0], np.cumsum([len(file) for file in self._files])])

    @classmethod
    def of(cls, path: Path, *, domain: str | None = None) -> "SplitDocuments":
        """Return all documents of a split, or those of the half that ``domain`` names."""
        metadata = pq.read_metadata(path)
        groups = [metadata.row_group(number) for number in range(metadata.num_row_groups)]
        counts = np.array([group.num_rows for group in groups], np.int64)
        sizes = np.array([group.total_byte_size for group in groups], np.float64)
        rows = None if domain is None else _rows_of_domain(path, domain)
        ends = np.cumsum(counts)
        return cls([_File(path, metadata, ends, sizes / np.maximum(counts, 1), rows)])

    @classmethod
    def together(cls, parts: Sequence["SplitDocuments"]) -> "SplitDocuments":
        """Return the documents of ``parts``, concatenated."""
        return cls([file for part in parts for file in part._files])

    def __len__(self) -> int:
        return int(self._starts[-1])

    def first(
        self, *, max_documents: int | None = None, max_characters: int | None = None
    ) -> "SplitDocuments":
        """Return the first documents, until they reach ``max_characters``, if there are enough."""
        count = len(self) if max_documents is None else min(max_documents, len(self))
        if max_characters is not None:
            held = reached = 0
            for text in self.texts(np.arange(count), num_characters=max_characters):
                if held >= max_characters:
                    break
                held += len(text)
                reached += 1
            count = reached
        cut = []
        for file, start in zip(self._files, self._starts, strict=False):
            own = file.row_of(np.arange(max(0, min(len(file), count - int(start)))))
            cut.append(dataclasses.replace(file, rows=own))
        return SplitDocuments(cut)

    def texts(
        self, numbers: NDArray[np.int64] | None = None, *, num_characters: int | None = None
    ) -> Iterator[str]:
        """Yield the documents called ``numbers``, in that order, or all of them.

        ``num_characters``, if given, is about how many characters the caller will take: no more
        than that is read at a time.
        """
        limit = min(_MAX_READ_BYTES, max(_MIN_READ_BYTES, num_characters or _MAX_READ_BYTES))
        total = len(self) if numbers is None else len(numbers)
        for first in range(0, total, _NUMBERS_PER_STEP):
            last = min(first + _NUMBERS_PER_STEP, total)
            step = np.arange(first, last) if numbers is None else numbers[first:last]
            sums = np.cumsum(self._expected_bytes(step))
            done = 0
            while done < len(step):
                before = sums[done - 1] if done else 0.0
                stop = max(done + 1, int(np.searchsorted(sums, before + limit, side="right")))
                yield from self._read(step[done:stop])
                done = stop

    def _places(
        self, numbers: NDArray[np.int64]
    ) -> Iterator[tuple[_File, NDArray[np.int64], NDArray[np.int64]]]:
        """Yield each file with the positions in ``numbers`` that lie in it, and their rows."""
        file_of = np.searchsorted(self._starts, numbers, side="right") - 1
        for index in np.flatnonzero(np.bincount(file_of, minlength=len(self._files))):
            positions = np.flatnonzero(file_of == index)
            file = self._files[index]
            yield file, positions, file.row_of(numbers[positions] - self._starts[index])

    def _expected_bytes(self, numbers: NDArray[np.int64]) -> NDArray[np.float64]:
        """Return about how long the documents are: each as its row group's mean."""
        found = np.zeros(len(numbers))
        for file, positions, rows in self._places(numbers):
            found[positions] = file.bytes_per_row[file.group_of(rows)]
        return found

    def _read(self, numbers: NDArray[np.int64]) -> list[str]:
        texts = [""] * len(numbers)
        wanted = [
            (file, int(group), positions[of_group], rows[of_group])
            for file, positions, rows in self._places(numbers)
            for group, of_group in _by_value(file.group_of(rows))
        ]
        # Decompressing takes most of the time, and a row group is some MiB.
        with ThreadPoolExecutor(min(_MAX_THREADS, os.cpu_count() or 1)) as threads:
            found = threads.map(lambda each: each[0].read(each[1], each[3]), wanted)
            for (_, _, positions, _), own in zip(wanted, found, strict=True):
                for position, text in zip(positions, own, strict=True):
                    texts[position] = text
        return texts


def _by_value(values: NDArray[np.int64]) -> Iterator[tuple[int, NDArray[np.int64]]]:
    """Yield each different value with its positions."""
    order = np.argsort(values, kind="stable")
    starts = np.flatnonzero(np.diff(values[order], prepend=-1))
    for own in np.split(order, starts[1:]):
        if len(own):
            yield int(values[own[0]]), own


def _rows_of_domain(path: Path, domain: str) -> NDArray[np.int64]:
    """Return the rows of a split's documents of ``domain``, ascending."""
    found = []
    first = 0
    with pq.ParquetFile(path) as file:
        for group in range(file.num_row_groups):
            column = file.read_row_group(group, columns=["domain"]).column(0)
            found.append(np.flatnonzero(pc.equal(column, domain).to_numpy()) + first)
            first += len(column)
    return np.concatenate([np.empty(0, np.int64), *found])
