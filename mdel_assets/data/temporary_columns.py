"""Columns of numbers in temporary files."""

import tempfile
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import DTypeLike, NDArray


class TemporaryColumn:
    """Rows of ``width`` numbers in a file in ``folder``: appended first, then read.

    Without a folder the file lies among the system's temporary ones.
    """

    def __init__(self, folder: Path | None, dtype: DTypeLike, *, width: int = 1) -> None:
        if folder:
            folder.mkdir(parents=True, exist_ok=True)
        self._file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115  (closed on leaving)
        self._dtype = np.dtype(dtype)
        self._width = width
        self._length = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def __len__(self) -> int:
        return self._length

    def append(self, rows: NDArray[Any]) -> None:
        """Append ``rows``."""
        np.ascontiguousarray(rows, self._dtype).tofile(self._file)
        self._length += len(rows)

    def read(self, first: int, last: int) -> NDArray[Any]:
        """Return rows ``first`` to ``last`` (exclusive), in memory."""
        self._file.flush()
        size = self._dtype.itemsize * self._width
        self._file.seek(first * size)
        found = np.frombuffer(self._file.read((last - first) * size), self._dtype)
        self._file.seek(0, 2)
        return found.reshape(-1, self._width) if self._width > 1 else found

    def mapped(self) -> NDArray[Any]:
        """Return all rows where they lie: what of them is looked at takes memory.

        They stay there, when the column is left, for as long as they are referred to.
        """
        shape = (self._length, self._width) if self._width > 1 else (self._length,)
        if not self._length:
            return np.empty(shape, self._dtype)
        self._file.flush()
        return np.memmap(self._file, self._dtype, mode="r", shape=shape)


def first_bits(numbers: NDArray[np.uint64], num_buckets: int) -> NDArray[np.uint8]:
    """Return in which of ``num_buckets`` equal ranges of 64-bit numbers each lies.

    ``num_buckets`` is a power of two of at most 256.
    """
    if num_buckets == 1:
        return np.zeros(len(numbers), np.uint8)
    return (numbers >> np.uint64(64 - (num_buckets - 1).bit_length())).astype(np.uint8)
