"""The single pass over a shard: every line becomes a document of its domain, or is counted.

Threads share the work: one decompresses (`line_blocks`), one decodes and routes (here), two write
(`document_writer`). Memory is bounded for a shard of any size. A shard is a file, or with layout
``folders`` a folder per domain. A record is a JSON line, an element of a JSON array, a row of
Parquet or CSV, or a text file. Lines read always equal documents + rejects + documents with another
licence + documents with a label that is left out + documents without text + blank lines.
"""

import contextlib
import logging
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from mdel_assets.data.csv_rows import read_csv_rows
from mdel_assets.data.document_writer import DocumentWriter, is_blank
from mdel_assets.data.file_kinds import file_kind, looks_like, plain_suffix
from mdel_assets.data.folder_files import folder_files
from mdel_assets.data.json_lines import Fields, LineReader, RejectReason
from mdel_assets.data.license_filter import LicenseFilter
from mdel_assets.data.line_blocks import KEPT_BYTES, Block, read_blocks
from mdel_assets.data.other_labels import OtherLabels, labels_in_words
from mdel_assets.data.parquet_rows import read_rows
from mdel_assets.data.rows import Row
from mdel_assets.data.shard_counts import (
    DomainCount,
    ShardCounts,
    UnreadFiles,
    judge,
    unread_in_words,
)
from mdel_assets.data.text_file import read_text
from mdel_assets.experiment.fields import Domain, Source
from mdel_assets.machine.progress import Progress

_log = logging.getLogger(__name__)
_NUM_LINES_TO_GIVE_UP = 1000
_NUM_LOOKED_AT = 3
_NO_SUFFIX, _BESIDE = "(no suffix)", "(beside the domains' folders)"
# Lines with these reasons come from an unexpected kind of file, which the message names instead.
_UNREADABLE = {
    RejectReason.INVALID_UTF8,
    RejectReason.INVALID_JSON,
    RejectReason.NOT_AN_OBJECT,
    RejectReason.NOT_TEXT,
}
UNLABELLED = Domain(key="unlabelled", name="")


def route_documents(
    shard: Path, folder: Path, *, domains: Sequence[Domain] | None, source: Source
) -> ShardCounts:
    """Write ``folder/<domain>.parquet`` for each domain found in ``shard``, and return the counts.

    If ``domains`` is None no label is read: all documents have the domain `UNLABELLED`.

    The files hold ``text``, ``document_id`` (xxh3-128 of the UTF-8 text, hexadecimal),
    ``num_bytes`` and ``line_number`` (from 1 on, through all files of the shard), in the shard's
    order. Rejected lines go to ``rejects.parquet`` with file, line number, reason and raw bytes.

    Raises:
        ShardError: truncated or corrupt input, no document at all, or a greater share of rejected
            lines than ``source.max_reject_rate``. ``rejects.parquet`` is whole even then.

    """
    is_labelled = domains is not None
    if not is_labelled:
        source = source.model_copy(update={"domain_field": None})
    writer = DocumentWriter(folder, [UNLABELLED] if domains is None else domains)
    routing = _Pass(shard.name, writer, source)
    with writer.writing(), contextlib.suppress(_HopelessError):
        for file in [shard] if shard.is_file() else folder_files(shard):
            parts = file.relative_to(shard).parts
            if len(parts) == 1:
                routing.pass_over(file.name, why=_BESIDE)
            else:
                label = parts[0] if parts and is_labelled else UNLABELLED.name
                routing.read(file, label=label)
    counts = routing.counts()
    routing.finish(counts)
    judge(counts, name=shard.name, source=source, looks=routing.looks)
    return counts


class _HopelessError(Exception):
    """So many lines without one document that reading on is useless."""


class _Pass:
    """Reads files one after the other into one writer."""

    def __init__(self, name: str, writer: DocumentWriter, source: Source) -> None:
        self.writer = writer
        self.source = source
        self.fields = Fields(
            source.text_field,
            source.domain_field,
            source.license_field if source.licenses is not None else None,
            of_other_types=source.layout in ("columns", "folders"),
        )
        self.allows = LicenseFilter(source.licenses) if source.licenses is not None else None
        self.others = OtherLabels(writer.labels)
        self.leaves_out = source.other_labels == "leave_out"
        self.name = name
        self.progress = Progress(self._words, total=1.0)
        self.num_unclaimed = 0
        self.num_lines = self.num_blank_lines = self.num_without_text = self.num_repaired = 0
        self.unread: dict[str, UnreadFiles] = {}
        self.looks: list[str] = []
        self.file = ""
        self.lines_before = 0

    def read(self, file: Path, *, label: str) -> None:
        """Route every record of one file; ``label`` names its domain if no field does."""
        self.file = file.name if not label else f"{label}/{file.name}"
        self.lines_before = self.num_lines
        limit = self.source.max_document_bytes
        kind = file_kind(
            file,
            is_in_folder=self.source.layout == "folders",
            text_suffixes=self.source.text_suffixes,
        )
        before = self._num_taken(), self.writer.reasons.copy()
        try:
            match kind:
                case "parquet":
                    self._read_rows(read_rows(file, self.fields, label=label, max_text_bytes=limit))
                case "table":
                    rows = read_csv_rows(file, self.fields, label=label, max_row_bytes=limit)
                    self._read_rows(rows)
                case "lines" | "array":
                    reader = LineReader(self.fields, label=label)
                    self._read_lines(file, reader, is_array=kind == "array")
                case "text":
                    self._read_text(file, label)
                case None:
                    self.pass_over(self.file, why=plain_suffix(file) or _NO_SUFFIX)
        finally:
            rejected = self.writer.reasons - before[1]
            if self._num_taken() == before[0] and rejected.keys() & _UNREADABLE:
                self._look_at(file)

    def pass_over(self, name: str, *, why: str) -> None:
        """Count and name a file that is not read."""
        self.unread[why] = self.unread.get(why, UnreadFiles()).with_one(name)

    def counts(self) -> ShardCounts:
        """Return what was found."""
        writer = self.writer
        num_documents, num_bytes = writer.num_documents(), writer.num_bytes()
        filtered = self.allows.refused if self.allows else Counter[str]()
        return ShardCounts(
            num_lines=self.num_lines,
            num_blank_lines=self.num_blank_lines,
            num_without_text=self.num_without_text,
            num_documents=sum(num_documents.values()),
            num_bytes=sum(num_bytes.values()),
            num_rejects=writer.reasons.total(),
            num_repaired=self.num_repaired,
            num_filtered=filtered.total(),
            rejects=dict(sorted(writer.reasons.items())),
            num_unclaimed=self.num_unclaimed,
            unknown_labels=self.others.most_common(),
            similar_labels=self.others.similar(),
            filtered_licenses=dict(filtered.most_common(20)),
            unread_files=dict(sorted(self.unread.items())),
            domains={k: DomainCount(n, num_bytes[k]) for k, n in sorted(num_documents.items())},
        )

    def _read_lines(self, file: Path, reader: LineReader, *, is_array: bool) -> None:
        limit = self.source.max_document_bytes
        for block in read_blocks(file, max_line_bytes=limit, is_array=is_array):
            is_clean = block.size <= limit or block.longest_line() <= limit
            records = reader.read_block(block.data, block.size) if is_clean else None
            if records and self._rejects_none(set(map(reader.get_label, records))):
                self._take(records, reader)
            elif block.size:
                self._read_each(block, reader)
            if block.too_long is not None:
                self.num_lines += 1
                self._reject(RejectReason.TOO_LONG, block.too_long, self.num_lines)
            self._after_block(block.share_read)

    def _take(self, records: list[Any], reader: LineReader) -> None:
        """Route the records of a block without a fault."""
        get_text, get_label, add = reader.get_text, reader.get_label, self.writer.add
        for number, record in enumerate(records, self.num_lines + 1):
            text = get_text(record)
            if not text or text.isspace():
                self.num_without_text += 1
            elif self.allows is None or self.allows(reader.get_license(record)):
                label = get_label(record)
                if not add(text.encode(), label, number):
                    self._leave_out(label)
        self.num_lines += len(records)

    def _read_each(self, block: Block, reader: LineReader) -> None:
        """Route the lines of a block one by one."""
        for line in bytes(memoryview(block.data)[: block.size - 1]).split(b"\n"):
            self.num_lines += 1
            if len(line) > self.source.max_document_bytes:
                self._reject(RejectReason.TOO_LONG, line[:KEPT_BYTES], self.num_lines)
                continue
            try:
                record = reader.read(line)
                text, label = reader.get_text(record).encode(), reader.get_label(record)
                granted = reader.get_license(record)
            except Exception:  # noqa: BLE001  (whatever the reason, the slow way names it)
                slow = reader.read_slowly(line)
                reject = slow.reject
                if slow.repaired and self.source.lone_surrogates == "reject":
                    reject = RejectReason.LONE_SURROGATE
                if slow.is_blank:
                    self.num_blank_lines += 1
                    continue
                if reject:
                    self._reject(reject, line, self.num_lines)
                    continue
                self.num_repaired += slow.repaired
                text, label, granted = slow.text.encode(), slow.label, slow.license
            self._route(text, label, granted, line)

    def _read_rows(self, lists: Iterable[tuple[list[Row], float]]) -> None:
        for rows, share_read in lists:
            for row in rows:
                self.num_lines += 1
                if row.reject:
                    self._reject(row.reject, row.text, self.num_lines)
                else:
                    self._route(row.text, row.label, row.license, row.text)
            self._after_block(share_read)

    def _read_text(self, file: Path, label: str) -> None:
        self.num_lines += 1
        if self._is_left_out(label):
            self._leave_out(label)
            return
        text, reject = read_text(file, max_bytes=self.source.max_document_bytes)
        if reject:
            self._reject(reject, text, self.num_lines)
        elif is_blank(text):
            self.num_without_text += 1
        elif not self.writer.add(text, label, self.num_lines):
            self._take_no_domains(label, text)

    def _route(self, text: bytes, label: str, granted: str | None, line: bytes) -> None:
        """Send a record's document to its domain; ``line`` is kept if it is rejected."""
        if is_blank(text):
            self.num_without_text += 1
        elif self.allows and not self.allows(granted):
            return
        elif not self.writer.add(text, label, self.num_lines):
            self._take_no_domains(label, line)

    def _rejects_none(self, labels: set[str]) -> bool:
        """Whether each of ``labels`` belongs to a domain or is left out."""
        return all(label in self.writer.labels or self._is_left_out(label) for label in labels)

    def _is_left_out(self, label: str) -> bool:
        is_other = label not in self.writer.labels and not self.others.is_another_spelling(label)
        return self.leaves_out and is_other

    def _take_no_domains(self, label: str, line: bytes) -> None:
        """Leave out, or reject, the record just read, which has a label of no domain."""
        if self._is_left_out(label):
            self._leave_out(label)
        else:
            self.others.count(label)
            self._reject(RejectReason.UNKNOWN_DOMAIN, line, self.num_lines)

    def _leave_out(self, label: str) -> None:
        self.others.count(label)
        self.num_unclaimed += 1

    def _reject(self, reason: RejectReason, line: bytes, number: int) -> None:
        place = number - self.lines_before
        self.writer.reject(reason, file=self.file, line_number=place, line=line)

    def _num_taken(self) -> int:
        """Return how many records were readable so far, including those left out."""
        counted = self.writer.reasons.total() + self.num_blank_lines
        return self.num_lines - counted

    def _look_at(self, file: Path) -> None:
        if len(self.looks) < _NUM_LOOKED_AT:
            look = looks_like(file, text_field=self.source.text_field)
            self.looks += [f"{self.file} looks like {look}"] if look else []

    def _after_block(self, share_read: float) -> None:
        self.progress.reach(share_read)
        rejects = self.writer.reasons.total()
        is_readable = self.writer.num_documents() or self.num_unclaimed
        is_hopeless = rejects >= _NUM_LINES_TO_GIVE_UP and not is_readable
        if is_hopeless and self.source.max_reject_rate < 0.5:
            raise _HopelessError

    def _words(self, progress: Progress) -> str:
        pace = sum(self.writer.num_bytes().values()) / progress.elapsed_seconds / 1e6
        return (
            f"{self.name}: {100 * progress.done:.0f} % read, "
            f"{sum(self.writer.num_documents().values())} documents, {pace:.0f} MB/s of text"
        )

    def finish(self, counts: ShardCounts) -> None:
        """Log what became of the whole shard."""
        elapsed = self.progress.elapsed_seconds
        _log.info(
            "%s: %d lines became %d documents, %d rejects; %.0f MB of text in %.1f s, %.0f MB/s",
            self.name,
            counts.num_lines,
            counts.num_documents,
            counts.num_rejects,
            counts.num_bytes / 1e6,
            elapsed,
            counts.num_bytes / 1e6 / elapsed,
        )
        if counts.unread_files:
            unread = unread_in_words(counts.unread_files)
            _log.warning("%s: files that are not read: %s", self.name, unread)
        if counts.num_unclaimed:
            level = logging.WARNING if counts.similar_labels else logging.INFO
            message = "%s: %d documents with labels of no domain were left out: %s"
            labels = labels_in_words(counts.unknown_labels, counts.similar_labels)
            _log.log(level, message, self.name, counts.num_unclaimed, labels)
