"""The one pass over a shard: every line becomes a document of its domain, or a counted reject.

Three threads share the work: one decompresses, one parses and routes, one writes. Memory is
bounded by two blocks of input, the documents not yet written (at most `_BUFFER_BYTES`), and two
row groups on their way to disk, whatever the shard's size. Lines in = documents + rejects + blank
lines, always.
"""

import contextlib
import dataclasses
import logging
import queue
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import xxhash

from mdel_assets.data.json_lines import LineReader, RejectReason
from mdel_assets.errors import ShardError
from mdel_assets.experiment_fields import Domain

_log = logging.getLogger(__name__)
_Item = TypeVar("_Item")
_BLOCK_BYTES = 8 << 20
_ROW_GROUP_BYTES = 16 << 20
_BUFFER_BYTES = 128 << 20
_PROGRESS_SECONDS = 15.0
REJECTS_NAME = "rejects.parquet"
DOCUMENT_SCHEMA = pa.schema([("text", pa.string()), ("document_id", pa.string())])
_REJECT_SCHEMA = pa.schema(
    [("line_number", pa.int64()), ("reason", pa.string()), ("line", pa.binary())]
)
_COMPRESSIONS = {".zst": "zstd", ".gz": "gzip"}


@dataclasses.dataclass(frozen=True)
class DomainCount:
    """Documents of one domain and their text's UTF-8 bytes."""

    num_documents: int
    num_bytes: int


@dataclasses.dataclass(frozen=True)
class ShardCounts:
    """What a pass found. ``unknown_labels`` counts the labels that no domain claims."""

    num_lines: int
    num_blank_lines: int
    num_documents: int
    num_bytes: int
    num_rejects: int
    num_repaired: int
    rejects: dict[str, int]
    unknown_labels: dict[str, int]
    domains: dict[str, DomainCount]


def route_documents(
    shard: Path,
    folder: Path,
    *,
    domains: Sequence[Domain],
    text_field: str,
    domain_field: str,
    max_reject_rate: float,
) -> ShardCounts:
    """Write ``folder/<domain>.parquet`` for each domain found in ``shard``, and return the counts.

    The files hold ``text`` and ``document_id`` (xxh3-128 of the UTF-8 text, hexadecimal), in the
    shard's order. Rejected lines go to ``rejects.parquet`` with line number and reason.

    Raises:
        ShardError: truncated or corrupt compression, no document at all, or a greater share of
            rejected lines than ``max_reject_rate``.

    """
    router = _Router(folder, domains, LineReader(text_field=text_field, domain_field=domain_field))
    with router.writing():
        for block in read_lines(shard, on_progress=router.progress):
            for line in block:
                router.route(line)
    counts = router.counts()
    _judge(counts, shard=shard, max_reject_rate=max_reject_rate)
    return counts


def document_id(text: bytes) -> str:
    """Return the id of a document: xxh3-128 of its UTF-8 text in hexadecimal."""
    return xxhash.xxh3_128_hexdigest(text)


def read_lines(
    shard: Path, *, on_progress: Callable[[float], None] | None = None
) -> Iterator[list[bytes]]:
    """Yield the shard's lines in lists of about 8 MiB; ``on_progress`` gets the share read.

    Raises:
        ShardError: the compressed stream is truncated or corrupt.

    """
    rest = b""
    for block, share in _in_thread(lambda: _decompress(shard)):
        lines = (rest + block).split(b"\n") if rest else block.split(b"\n")
        rest = lines.pop()
        yield lines
        if on_progress:
            on_progress(share)
    if rest:
        yield [rest]


def _decompress(shard: Path) -> Iterator[tuple[bytes, float]]:
    size = shard.stat().st_size
    compression = _COMPRESSIONS.get(shard.suffix)
    try:
        with pa.OSFile(str(shard)) as raw:
            stream = pa.CompressedInputStream(raw, compression) if compression else raw
            while block := stream.read(_BLOCK_BYTES):
                yield block, raw.tell() / size
    except OSError as error:
        raise ShardError(
            f"{shard.name} is not a whole {compression or 'plain'} file: {error}. It was truncated "
            f"or corrupted: fetch it again (compare its sha256 with the publisher's)."
        ) from error


def _in_thread(make: Callable[[], Iterator[_Item]]) -> Iterator[_Item]:
    """Yield from ``make()``, which runs two items ahead in a thread of its own."""
    items: queue.Queue[tuple[bool, Any]] = queue.Queue(maxsize=2)
    stopped = threading.Event()

    def put(item: tuple[bool, Any]) -> bool:
        while not stopped.is_set():
            with contextlib.suppress(queue.Full):
                items.put(item, timeout=0.1)
                return True
        return False

    def produce() -> None:
        try:
            for item in make():
                if not put((True, item)):
                    return
            put((False, None))
        except BaseException as error:  # noqa: BLE001  (raised again by the consumer)
            put((False, error))

    thread = threading.Thread(target=produce, name="decompress", daemon=True)
    thread.start()
    try:
        while True:
            more, item = items.get()
            if not more:
                if item is not None:
                    raise item
                return
            yield item
    finally:
        stopped.set()
        thread.join()


class _Router:
    """Collects documents by domain and hands full row groups to a writing thread."""

    def __init__(self, folder: Path, domains: Sequence[Domain], reader: LineReader) -> None:
        self.folder = folder
        self.reader = reader
        self.key_of_label = {s: d.key for d in domains for s in (d.name, *d.aliases)}
        self.texts: dict[str, list[bytes]] = {}
        self.ids: dict[str, list[str]] = {}
        self.buffered: Counter[str] = Counter()
        self.total_buffered = 0
        self.num_documents: Counter[str] = Counter()
        self.num_bytes: Counter[str] = Counter()
        self.rejects: list[tuple[int, str, bytes]] = []
        self.reasons: Counter[str] = Counter()
        self.unknown_labels: Counter[str] = Counter()
        self.num_lines = self.num_blank_lines = self.num_repaired = 0
        self.to_write: queue.Queue[tuple[str, list[bytes], list[str]] | None] = queue.Queue(2)
        self.write_error: BaseException | None = None
        self.started = self.reported = time.monotonic()

    def route(self, line: bytes) -> None:
        """Send one line where it belongs."""
        self.num_lines += 1
        try:
            text, label = self.reader.read(line)
            data = text.encode()
        except Exception:  # noqa: BLE001  (whatever the reason, the slow way names it)
            slow = self.reader.read_slowly(line)
            if slow.is_blank:
                self.num_blank_lines += 1
                return
            if slow.reject:
                self._reject(line, slow.reject)
                return
            self.num_repaired += slow.repaired
            data, label = slow.text.encode(), slow.label
        key = self.key_of_label.get(label)
        if key is None:
            self.unknown_labels[label[:80]] += 1
            self._reject(line, RejectReason.UNKNOWN_DOMAIN)
            return
        self.texts.setdefault(key, []).append(data)
        self.ids.setdefault(key, []).append(document_id(data))
        self.buffered[key] += len(data)
        self.total_buffered += len(data)
        self.num_documents[key] += 1
        self.num_bytes[key] += len(data)
        if self.buffered[key] >= _ROW_GROUP_BYTES:
            self._flush(key)
        elif self.total_buffered >= _BUFFER_BYTES:
            self._flush(max(self.buffered, key=lambda k: self.buffered[k]))

    def progress(self, share: float) -> None:
        """Log a line with rate and time left every so often."""
        now = time.monotonic()
        if now - self.reported < _PROGRESS_SECONDS:
            return
        self.reported = now
        elapsed = now - self.started
        _log.info(
            "%.0f %% read, %d documents, %.0f MB/s of text, %.0f s left",
            100 * share,
            self.num_documents.total(),
            self.num_bytes.total() / elapsed / 1e6,
            elapsed * (1 - share) / max(share, 1e-9),
        )

    @contextlib.contextmanager
    def writing(self) -> Iterator[None]:
        """Run the writing thread; on the way out write what is left and close every file."""
        thread = threading.Thread(target=self._write, name="write", daemon=True)
        thread.start()
        try:
            yield
            for key in sorted(self.texts):
                self._flush(key)
        finally:
            self.to_write.put(None)
            thread.join()
        if self.write_error:
            raise self.write_error
        columns = list(zip(*self.rejects, strict=True)) or [(), (), ()]
        arrays = [pa.array(c, f.type) for c, f in zip(columns, _REJECT_SCHEMA, strict=True)]
        table = pa.Table.from_arrays(arrays, schema=_REJECT_SCHEMA)
        pq.write_table(table, self.folder / REJECTS_NAME, compression="zstd")

    def counts(self) -> ShardCounts:
        """Return what was found."""
        return ShardCounts(
            num_lines=self.num_lines,
            num_blank_lines=self.num_blank_lines,
            num_documents=self.num_documents.total(),
            num_bytes=self.num_bytes.total(),
            num_rejects=self.reasons.total(),
            num_repaired=self.num_repaired,
            rejects=dict(sorted(self.reasons.items())),
            unknown_labels=dict(self.unknown_labels.most_common(20)),
            domains={
                key: DomainCount(self.num_documents[key], self.num_bytes[key])
                for key in sorted(self.num_documents)
            },
        )

    def _reject(self, line: bytes, reason: RejectReason) -> None:
        self.reasons[reason.value] += 1
        self.rejects.append((self.num_lines, reason.value, line))

    def _flush(self, key: str) -> None:
        if self.write_error:
            raise self.write_error
        if self.texts[key]:
            self.to_write.put((key, self.texts[key], self.ids[key]))
            self.total_buffered -= self.buffered[key]
            self.texts[key], self.ids[key], self.buffered[key] = [], [], 0

    def _write(self) -> None:
        writers: dict[str, pq.ParquetWriter] = {}
        try:
            while item := self.to_write.get():
                key, texts, ids = item
                if key not in writers:
                    writers[key] = open_writer(self.folder / f"{key}.parquet", DOCUMENT_SCHEMA)
                columns = [string_array(texts), string_array([i.encode() for i in ids])]
                writers[key].write_batch(pa.record_batch(columns, schema=DOCUMENT_SCHEMA))
        except BaseException as error:  # noqa: BLE001  (raised again by the routing thread)
            self.write_error = error
            while self.to_write.get():
                pass
        finally:
            try:
                for writer in writers.values():
                    writer.close()
            except BaseException as error:  # noqa: BLE001  (likewise)
                self.write_error = self.write_error or error


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


def string_array(values: Sequence[bytes]) -> pa.StringArray:
    """Return UTF-8 ``values`` as an Arrow array without building Python strings."""
    offsets = np.zeros(len(values) + 1, np.int64)
    np.cumsum([len(value) for value in values], out=offsets[1:])
    if offsets[-1] > np.iinfo(np.int32).max:
        return pa.array(values, pa.binary()).cast(pa.string())
    data = pa.py_buffer(b"".join(values))
    return pa.StringArray.from_buffers(len(values), pa.py_buffer(offsets.astype(np.int32)), data)


def _judge(counts: ShardCounts, *, shard: Path, max_reject_rate: float) -> None:
    if not counts.num_documents:
        raise ShardError(
            f"{shard.name} holds no readable document: {counts.num_lines} lines, rejects "
            f"{counts.rejects or 'none'}{_labels(counts)}. Check source.text_field and "
            f"source.domain_field, and that 'domains' names the corpus's labels."
        )
    rate = counts.num_rejects / counts.num_lines
    if rate > max_reject_rate:
        raise ShardError(
            f"{shard.name}: {counts.num_rejects} of {counts.num_lines} lines were rejected "
            f"({counts.rejects}{_labels(counts)}), a share of {rate:.2g} where at most "
            f"{max_reject_rate:.2g} is allowed. Mend the shard, or raise source.max_reject_rate."
        )


def _labels(counts: ShardCounts) -> str:
    if not counts.unknown_labels:
        return ""
    shown = ", ".join(f"'{label}'" for label in list(counts.unknown_labels)[:5])
    return f"; labels that no domain claims: {shown}"
