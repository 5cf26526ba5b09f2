"""The one pass over a shard: every line becomes a document of its domain, or is counted otherwise.

Threads share the work: one decompresses (`line_blocks`), one decodes and routes (here), two write
(`document_writer`). Memory is bounded whatever the shard's size. A shard is a file, or with the
layout ``folders`` a folder per domain. A record is a JSON line, a Parquet row, or a text file.
Lines in = documents + rejects + documents of another licence + documents of a label that is left
out + blank lines, always.
"""

import contextlib
import fnmatch
import logging
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mdel_assets.data.document_writer import DocumentWriter
from mdel_assets.data.json_lines import Fields, LineReader, RejectReason
from mdel_assets.data.line_blocks import Block, read_blocks
from mdel_assets.data.other_labels import OtherLabels, labels_in_words
from mdel_assets.data.parquet_rows import read_rows
from mdel_assets.data.shard_counts import DomainCount, ShardCounts, judge
from mdel_assets.experiment_fields import Domain, Source

_log = logging.getLogger(__name__)
_PROGRESS_SECONDS = 15.0
_NUM_LINES_TO_GIVE_UP = 1000
_LINES_SUFFIXES = {".jsonl", ".ndjson", ".json"}
_NO_LICENSE = "(none)"
UNLABELLED = Domain(key="unlabelled", name="")


def route_documents(
    shard: Path, folder: Path, *, domains: Sequence[Domain] | None, source: Source
) -> ShardCounts:
    """Write ``folder/<domain>.parquet`` for each domain found in ``shard``, and return the counts.

    Where ``domains`` is None no label is read: all documents are of the domain `UNLABELLED`.

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
        for file in shard_files(shard):
            parts = file.relative_to(shard).parts if shard.is_dir() else ()
            label = parts[0] if parts and is_labelled else UNLABELLED.name
            routing.read(file, label=label)
    counts = routing.counts()
    routing.progress.finish(counts)
    judge(counts, name=shard.name, source=source)
    return counts


def shard_files(shard: Path) -> list[Path]:
    """Return a shard's files in reading order: itself, or what lies in its folders per domain."""
    if shard.is_file():
        return [shard]
    return sorted(
        path
        for path in shard.glob("*/**/*")
        if path.is_file() and not any(p.startswith(".") for p in path.relative_to(shard).parts)
    )


class _HopelessError(Exception):
    """So many lines without one document that reading on is a waste."""


class _Pass:
    """Reads files one after the other into one writer."""

    def __init__(self, name: str, writer: DocumentWriter, source: Source) -> None:
        self.writer = writer
        self.source = source
        self.fields = Fields(
            source.text_field,
            source.domain_field,
            source.license_field if source.licenses is not None else None,
        )
        patterns = [pattern.lower() for pattern in source.licenses or ()]
        self.allows = _LicenseFilter(patterns) if source.licenses is not None else None
        self.others = OtherLabels(writer.labels)
        self.leaves_out = source.other_labels == "leave_out"
        self.progress = _Progress(name, writer)
        self.num_unclaimed = 0
        self.num_lines = self.num_blank_lines = self.num_repaired = 0
        self.file = ""
        self.lines_before = 0

    def read(self, file: Path, *, label: str) -> None:
        """Route every record of one file; ``label`` names its domain where no field does."""
        self.file = file.name if not label else f"{label}/{file.name}"
        self.lines_before = self.num_lines
        stem = file.with_suffix("") if file.suffix in (".zst", ".gz") else file
        if file.suffix == ".parquet":
            self._read_parquet(file, label)
        elif self.source.layout != "folders" or stem.suffix in _LINES_SUFFIXES:
            self._read_lines(file, LineReader(self.fields, label=label))
        else:
            self._read_text(file, label)

    def counts(self) -> ShardCounts:
        """Return what was found."""
        writer = self.writer
        num_documents, num_bytes = writer.num_documents(), writer.num_bytes()
        filtered = self.allows.refused if self.allows else Counter[str]()
        return ShardCounts(
            num_lines=self.num_lines,
            num_blank_lines=self.num_blank_lines,
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
            domains={k: DomainCount(n, num_bytes[k]) for k, n in sorted(num_documents.items())},
        )

    def _read_lines(self, file: Path, reader: LineReader) -> None:
        for block in read_blocks(file):
            records = reader.read_block(block.data, block.size)
            if records and self._rejects_none(set(map(reader.get_label, records))):
                self._take(records, reader)
            else:
                self._read_each(block, reader)
            self._after_block(block.share_read)

    def _take(self, records: list[Any], reader: LineReader) -> None:
        """Route the records of a block without a fault."""
        get_text, get_label, add = reader.get_text, reader.get_label, self.writer.add
        for number, record in enumerate(records, self.num_lines + 1):
            if self.allows is None or self.allows(reader.get_license(record)):
                label = get_label(record)
                if not add(get_text(record).encode(), label, number):
                    self._leave_out(label)
        self.num_lines += len(records)

    def _read_each(self, block: Block, reader: LineReader) -> None:
        """Route the lines of a block one by one."""
        for line in bytes(memoryview(block.data)[: block.size - 1]).split(b"\n"):
            self.num_lines += 1
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
            if self.allows and not self.allows(granted):
                continue
            if not self.writer.add(text, label, self.num_lines):
                self._take_no_domains(label, line)

    def _read_parquet(self, file: Path, label: str) -> None:
        for rows, share_read in read_rows(file, self.fields, label=label):
            for row in rows:
                self.num_lines += 1
                if row.reject:
                    self._reject(row.reject, row.text, self.num_lines)
                elif self.allows and not self.allows(row.license):
                    continue
                elif not self.writer.add(row.text, row.label, self.num_lines):
                    self._take_no_domains(row.label, row.text)
            self._after_block(share_read)

    def _read_text(self, file: Path, label: str) -> None:
        self.num_lines += 1
        if self._is_left_out(label):
            self._leave_out(label)
            return
        text = file.read_bytes()
        try:
            text.decode("utf-8")
        except UnicodeDecodeError:
            self._reject(RejectReason.INVALID_UTF8, text, self.num_lines)
            return
        if not self.writer.add(text, label, self.num_lines):
            self._take_no_domains(label, text)

    def _rejects_none(self, labels: set[str]) -> bool:
        """Whether every one of ``labels`` is some domain's, or left out."""
        return all(label in self.writer.labels or self._is_left_out(label) for label in labels)

    def _is_left_out(self, label: str) -> bool:
        is_other = label not in self.writer.labels and not self.others.is_another_spelling(label)
        return self.leaves_out and is_other

    def _take_no_domains(self, label: str, line: bytes) -> None:
        """Leave out, or reject, the record just read, whose label no domain claims."""
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

    def _after_block(self, share_read: float) -> None:
        self.progress.show(share_read)
        rejects = self.writer.reasons.total()
        is_readable = self.writer.num_documents() or self.num_unclaimed
        is_hopeless = rejects >= _NUM_LINES_TO_GIVE_UP and not is_readable
        if is_hopeless and self.source.max_reject_rate < 0.5:
            raise _HopelessError


class _LicenseFilter:
    """Says whether a licence is on the allow-list; counts those that are not."""

    def __init__(self, patterns: list[str]) -> None:
        self._patterns = patterns
        self._known: dict[str, bool] = {}
        self.refused: Counter[str] = Counter()

    def __call__(self, granted: str | None) -> bool:
        name = granted or _NO_LICENSE
        if name not in self._known:
            found = name.lower()
            self._known[name] = any(fnmatch.fnmatchcase(found, p) for p in self._patterns)
        if not self._known[name]:
            self.refused[name[:80]] += 1
        return self._known[name]


class _Progress:
    """Logs a line with rate and time left every so often."""

    def __init__(self, name: str, writer: DocumentWriter) -> None:
        self._name = name
        self._writer = writer
        self._started = self._reported = time.monotonic()

    def show(self, share_read: float) -> None:
        """Log how far the reading is, unless that was done a moment ago."""
        now = time.monotonic()
        if now - self._reported < _PROGRESS_SECONDS:
            return
        self._reported = now
        elapsed = now - self._started
        _log.info(
            "%s: %.0f %% read, %d documents, %.0f MB/s of text, %.0f s left",
            self._name,
            100 * share_read,
            sum(self._writer.num_documents().values()),
            sum(self._writer.num_bytes().values()) / elapsed / 1e6,
            elapsed * (1 - share_read) / max(share_read, 1e-9),
        )

    def finish(self, counts: ShardCounts) -> None:
        """Log what became of the whole shard."""
        elapsed = time.monotonic() - self._started
        _log.info(
            "%s: %d lines became %d documents, %d rejects; %.0f MB of text in %.1f s, %.0f MB/s",
            self._name,
            counts.num_lines,
            counts.num_documents,
            counts.num_rejects,
            counts.num_bytes / 1e6,
            elapsed,
            counts.num_bytes / 1e6 / max(elapsed, 1e-9),
        )
        if counts.num_unclaimed:
            level = logging.WARNING if counts.similar_labels else logging.INFO
            message = "%s: %d documents were left out, whose labels no domain claims: %s"
            labels = labels_in_words(counts.unknown_labels, counts.similar_labels)
            _log.log(level, message, self._name, counts.num_unclaimed, labels)
