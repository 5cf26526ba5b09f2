"""Write documents to one Parquet file per domain, and rejected lines to a file of their own.

`DocumentWriter` collects documents by domain. Full row groups are handed to the writer threads,
which encode and compress them. Memory is bounded by the documents not yet handed over
(`_BUFFER_BYTES`) and the few row groups in progress. Files do not depend on which thread wrote.
"""

import contextlib
import threading
from collections import Counter, deque
from collections.abc import Iterator, KeysView, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import xxhash

from mdel_assets.data.json_lines import RejectReason
from mdel_assets.experiment.fields import Domain

_ROW_GROUP_BYTES = 16 << 20
_BUFFER_BYTES = 48 << 20
_NUM_THREADS = 2
_NUM_WAITING = 2
_ID_BYTES = 16
REJECTS_NAME = "rejects.parquet"
DOCUMENT_SCHEMA = pa.schema(
    [
        ("text", pa.string()),
        ("document_id", pa.string()),
        ("num_bytes", pa.int64()),
        ("line_number", pa.int64()),
    ]
)
REJECT_SCHEMA = pa.schema(
    [
        ("file", pa.string()),
        ("line_number", pa.int64()),
        ("reason", pa.string()),
        ("line", pa.binary()),
    ]
)


def document_id(text: bytes) -> str:
    """Return the id of a document: xxh3-128 of its UTF-8 text in hexadecimal."""
    return xxhash.xxh3_128_hexdigest(text)


def is_blank(text: bytes) -> bool:
    """Whether UTF-8 text has no character other than white space."""
    rest = text.lstrip()
    first = rest[:4].decode("utf-8", "ignore")[:1]
    return not rest or (first.isspace() and rest.decode().isspace())


class DocumentWriter:
    """Sends documents to their domain's file in ``folder``, and counts them.

    Use it as ``with writer.writing(): ...``.
    """

    def __init__(self, folder: Path, domains: Sequence[Domain]) -> None:
        self._folder = folder
        buckets = {domain.key: _Bucket(domain.key) for domain in domains}
        self._bucket_of = {s: buckets[d.key] for d in domains for s in (d.name, *d.aliases)}
        self._buckets = buckets
        self._pool = _WritingThreads(folder)
        self._buffered = 0
        self._rejects = _Rejects()
        self.reasons: Counter[str] = Counter()

    @property
    def labels(self) -> KeysView[str]:
        """All labels of the domains."""
        return self._bucket_of.keys()

    def add(self, text: bytes, label: str, line_number: int) -> bool:
        """Take a document's UTF-8 text; return False if no domain has this ``label``."""
        bucket = self._bucket_of.get(label)
        if bucket is None:
            return False
        bucket.texts.append(text)
        bucket.ids.append(xxhash.xxh3_128_digest(text))
        bucket.line_numbers.append(line_number)
        size = len(text)
        bucket.size += size
        self._buffered += size
        if bucket.size >= _ROW_GROUP_BYTES:
            self._flush(bucket)
        elif self._buffered >= _BUFFER_BYTES:
            self._flush(max(self._buckets.values(), key=lambda b: b.size))
        return True

    def reject(self, reason: RejectReason, *, file: str, line_number: int, line: bytes) -> None:
        """Keep a rejected line and count it under its reason."""
        self.reasons[reason.value] += 1
        self._rejects.rows.append((file, line_number, reason.value, line))
        self._rejects.size += len(line)
        if self._rejects.size >= _ROW_GROUP_BYTES:
            self._flush_rejects()

    @contextlib.contextmanager
    def writing(self) -> Iterator[None]:
        """Run the writer threads; on exit write the rest and close every file."""
        with self._pool:
            yield
            for bucket in self._buckets.values():
                if bucket.texts:
                    self._flush(bucket)
            self._flush_rejects()

    def num_documents(self) -> dict[str, int]:
        """Return the documents taken so far, by domain key, for domains that have any."""
        return {k: n for k, b in self._buckets.items() if (n := b.num_written + len(b.texts))}

    def num_bytes(self) -> dict[str, int]:
        """Return the UTF-8 bytes taken so far, likewise."""
        return {k: b.bytes_written + b.size for k, b in self._buckets.items()}

    def _flush(self, bucket: "_Bucket") -> None:
        texts, ids, line_numbers = bucket.texts, bucket.ids, bucket.line_numbers
        bucket.num_written += len(texts)
        bucket.bytes_written += bucket.size
        self._buffered -= bucket.size
        bucket.texts, bucket.ids, bucket.line_numbers, bucket.size = [], [], [], 0
        self._pool.put(f"{bucket.key}.parquet", _Documents(texts, ids, line_numbers))

    def _flush_rejects(self) -> None:
        rejects, self._rejects = self._rejects, _Rejects()
        self._pool.put(REJECTS_NAME, rejects)


class _Bucket:
    """One domain's documents, waiting for a full row group."""

    def __init__(self, key: str) -> None:
        self.key = key
        self.texts: list[bytes] = []
        self.ids: list[bytes] = []
        self.line_numbers: list[int] = []
        self.size = self.num_written = self.bytes_written = 0


class _Documents:
    """A row group of documents; taking its batch releases the texts."""

    schema = DOCUMENT_SCHEMA

    def __init__(self, texts: list[bytes], ids: list[bytes], line_numbers: list[int]) -> None:
        self.texts, self.ids, self.line_numbers = texts, ids, line_numbers

    def take_batch(self) -> pa.RecordBatch:
        sizes = np.fromiter(map(len, self.texts), np.int64, len(self.texts))
        text = _string_array(self.texts, sizes)
        self.texts = []
        columns = [text, _hexadecimal(self.ids), pa.array(sizes), pa.array(self.line_numbers)]
        return pa.record_batch(columns, schema=DOCUMENT_SCHEMA)


class _Rejects:
    """Rejected lines: file, line number, reason, raw bytes."""

    schema = REJECT_SCHEMA

    def __init__(self) -> None:
        self.rows: list[tuple[str, int, str, bytes]] = []
        self.size = 0

    def take_batch(self) -> pa.RecordBatch:
        columns = list(zip(*self.rows, strict=True)) or [()] * len(REJECT_SCHEMA)
        arrays = [pa.array(c, f.type) for c, f in zip(columns, REJECT_SCHEMA, strict=True)]
        return pa.record_batch(arrays, schema=REJECT_SCHEMA)


class _WritingThreads:
    """Writes row groups, each file's in the order in which they were put."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._changed = threading.Condition()
        self._waiting: deque[tuple[str, _Documents | _Rejects]] = deque()
        self._busy: set[str] = set()
        self._writers: dict[str, pq.ParquetWriter] = {}
        self._closed = False
        self._error: BaseException | None = None
        self._threads = [
            threading.Thread(target=self._run, name=f"write-{i}", daemon=True)
            for i in range(_NUM_THREADS)
        ]

    def put(self, name: str, group: _Documents | _Rejects) -> None:
        with self._changed:
            self._changed.wait_for(lambda: len(self._waiting) < _NUM_WAITING or self._error)
            if self._error:
                raise self._error
            self._waiting.append((name, group))
            self._changed.notify_all()

    def __enter__(self) -> None:
        for thread in self._threads:
            thread.start()

    def __exit__(self, kind: object, error: object, traceback: object) -> None:
        with self._changed:
            self._closed = True
            if error:
                self._waiting.clear()
            self._changed.notify_all()
        for thread in self._threads:
            thread.join()
        for writer in self._writers.values():
            try:
                writer.close()
            except BaseException as closing:  # noqa: BLE001  (raised below)
                self._error = self._error or closing
        if self._error and not error:
            raise self._error

    def _run(self) -> None:
        while item := self._next():
            name, group = item
            try:
                writer = self._writers.get(name)
                if writer is None:
                    writer = open_writer(self._folder / name, group.schema)
                    self._writers[name] = writer
                writer.write_batch(group.take_batch())
            except BaseException as error:  # noqa: BLE001  (raised again by `put` or at the end)
                self._error = self._error or error
            with self._changed:
                self._busy.discard(name)
                self._changed.notify_all()

    def _next(self) -> tuple[str, _Documents | _Rejects] | None:
        """Wait for a row group of a file that no other thread is writing; None at the end."""
        with self._changed:
            while True:
                if self._error:
                    return None
                for position, (name, group) in enumerate(self._waiting):
                    if name not in self._busy:
                        del self._waiting[position]
                        self._busy.add(name)
                        self._changed.notify_all()
                        return name, group
                if self._closed and not self._waiting:
                    return None
                self._changed.wait()


def open_writer(path: Path, schema: pa.Schema) -> pq.ParquetWriter:
    """Return a writer that suits text: zstd level 1, no dictionaries, no statistics."""
    return pq.ParquetWriter(
        path,
        schema,
        compression="zstd",
        compression_level=1,
        use_dictionary=False,
        write_statistics=False,
    )


def _string_array(values: Sequence[bytes], sizes: np.ndarray) -> pa.StringArray:
    """Return UTF-8 ``values`` as an Arrow array without building Python strings."""
    offsets = np.zeros(len(values) + 1, np.int64)
    np.cumsum(sizes, out=offsets[1:])
    if offsets[-1] > np.iinfo(np.int32).max:
        return pa.array(values, pa.binary()).cast(pa.string())
    data = pa.py_buffer(b"".join(values))
    return pa.StringArray.from_buffers(len(values), pa.py_buffer(offsets.astype(np.int32)), data)


def _hexadecimal(ids: Sequence[bytes]) -> pa.StringArray:
    digits = b"".join(ids).hex().encode("ascii")
    offsets = np.arange(len(ids) + 1, dtype=np.int32) * (2 * _ID_BYTES)
    return pa.StringArray.from_buffers(len(ids), pa.py_buffer(offsets), pa.py_buffer(digits))
