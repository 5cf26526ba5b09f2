"""Some records of a file whose fields are not known yet, each as what its fields hold.

A corpus is looked at with these before it has an experiment; the pass over a shard then reads the
fields that the experiment names.
"""

import csv
import dataclasses
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq

from mdel_assets.data.file_kinds import FileKind, plain_suffix
from mdel_assets.data.line_blocks import BLOCK_BYTES, read_blocks
from mdel_assets.errors import ShardError

_BATCH_ROWS = 64
_LABEL_CHARACTERS = 100
_DELIMITERS = {".csv": ",;\t", ".tsv": "\t"}
_MAX_LINE_BYTES = 4 * BLOCK_BYTES


class Value(NamedTuple):
    """What a field holds: UTF-8 bytes of text (0: no text), and a label (None: unfit to be one)."""

    text_bytes: int
    label: str | None
    is_word: bool = False


Record = dict[str, Value]


@dataclasses.dataclass(frozen=True)
class SomeRecords:
    """Records by dotted path of their fields, None for one that cannot be read.

    ``share_read`` is how much of the file they make up.
    """

    records: list[Record | None]
    share_read: float


def some_records(file: Path, kind: FileKind, *, num_records: int, num_bytes: int) -> SomeRecords:
    """Return the first ``num_records`` of a file, or those with about ``num_bytes`` of text.

    Of Parquet, they are the first rows of row groups throughout the file.

    Raises:
        ShardError: the file is truncated or corrupt.

    """
    if kind == "parquet":
        return _rows_of_parquet(file, num_records, num_bytes)
    rows = _rows_of_csv(file) if kind == "table" else _rows_of_json(file, is_array=kind == "array")
    records: list[Record | None] = []
    left = num_bytes
    for content, share_read in rows:
        record = None if content is None else _record(content)
        records.append(record)
        left -= _text_bytes(record)
        if len(records) == num_records or left <= 0:
            return SomeRecords(records, share_read)
    return SomeRecords(records, 1.0)


def _text_bytes(record: Record | None) -> int:
    return sum(value.text_bytes for value in (record or {}).values())


def _record(content: Mapping[str, Any], within: str = "") -> Record:
    """Return the fields of a record and of the objects in it, by dotted path."""
    found: Record = {}
    for key, held in content.items():
        path = f"{within}{key}"
        if isinstance(held, Mapping):
            found |= _record(held, f"{path}.")
        elif held is not None:
            found[path] = _value(held)
    return found


def _value(held: Any) -> Value:
    if isinstance(held, bytes):
        held = held.decode("utf-8", "replace")
    if isinstance(held, str):
        is_label = held.strip() and len(held) <= _LABEL_CHARACTERS and held.isprintable()
        is_word = not held.replace(".", "").replace("-", "").isdecimal()
        return Value(len(held.encode("utf-8", "replace")), held if is_label else None, is_word)
    if isinstance(held, bool | int):
        return Value(0, str(held).lower())
    if isinstance(held, list) and held and all(isinstance(item, str | bytes) for item in held):
        return Value(sum(map(len, held)) + len(held) - 1, None)
    return Value(0, None)


def _rows_of_json(file: Path, *, is_array: bool) -> Iterator[tuple[dict[str, Any] | None, float]]:
    decode = msgspec.json.Decoder().decode
    for line, share_read in _lines(file, is_array=is_array):
        if line.isspace():
            continue
        try:
            content = decode(line)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            content = None
        yield content if isinstance(content, dict) else None, share_read


def _rows_of_csv(file: Path) -> Iterator[tuple[dict[str, str] | None, float]]:
    csv.field_size_limit(max(csv.field_size_limit(), _MAX_LINE_BYTES))
    share_read = 0.0

    def lines() -> Iterator[str]:
        nonlocal share_read
        for line, share_read in _lines(file):  # noqa: B007  (told with the row)
            yield line.decode("utf-8", "replace")

    text = lines()
    header = next(text, "")
    while header.count('"') % 2 and (more := next(text, "")):
        header += more
    signs = _DELIMITERS[plain_suffix(file)]
    delimiter = max(signs, key=lambda sign: len(next(csv.reader([header], delimiter=sign), [])))
    names = [name.strip() for name in next(csv.reader([header], delimiter=delimiter), [])]
    rows = csv.reader(text, delimiter=delimiter, strict=True)
    while True:
        try:
            cells = next(rows)
        except StopIteration:
            return
        except csv.Error:
            yield None, share_read
            continue
        if cells:
            is_whole = len(cells) == len(names)
            yield dict(zip(names, cells, strict=True)) if is_whole else None, share_read


def _lines(file: Path, *, is_array: bool = False) -> Iterator[tuple[bytes, float]]:
    """Yield lines, and the share of the file up to each; a line too long to be read is left out."""
    before = 0.0
    for block in read_blocks(file, max_line_bytes=_MAX_LINE_BYTES, is_array=is_array):
        lines = bytes(memoryview(block.data)[: block.size]).split(b"\n")[:-1]
        step = (block.share_read - before) / max(1, len(lines))
        for number, line in enumerate(lines, start=1):
            yield line + b"\n", before + number * step
        before = block.share_read


def _rows_of_parquet(file: Path, num_records: int, num_bytes: int) -> SomeRecords:
    """Return the first rows of as many row groups as there is room for."""
    records: list[Record | None] = []
    try:
        with pq.ParquetFile(file) as opened:
            num_rows = opened.metadata.num_rows
            groups = range(opened.num_row_groups)
            num_looked_at = max(1, min(len(groups), num_records // _BATCH_ROWS))
            for group in groups[:: -(-len(groups) // num_looked_at) or 1]:
                of_group: list[Record | None] = []
                left = num_bytes // num_looked_at
                for batch in opened.iter_batches(_BATCH_ROWS, row_groups=[group]):
                    of_group += [_record(row) for row in batch.to_pylist()]
                    left -= sum(map(_text_bytes, of_group[-len(batch) :]))
                    if len(of_group) >= num_records // num_looked_at or left <= 0:
                        break
                records += of_group
    except (pa.ArrowException, OSError) as error:
        raise ShardError(
            f"{file.name} is not a whole Parquet file: {error}. It was truncated or corrupted: "
            f"fetch it again."
        ) from error
    return SomeRecords(records, len(records) / max(1, num_rows))
