"""Rows of a Parquet file to documents, or to the reason why a row is none."""

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from mdel_assets.data.json_lines import Fields, RejectReason
from mdel_assets.errors import ShardError

_BATCH_ROWS = 1024


@dataclasses.dataclass(frozen=True, slots=True)
class Row:
    """One row: UTF-8 text, label and licence, or the reason why it is no document."""

    text: bytes
    label: str
    license: str | None
    reject: RejectReason | None


def read_rows(path: Path, fields: Fields, *, label: str) -> Iterator[tuple[list[Row], float]]:
    """Yield rows in lists, and the share of the file that is behind them.

    Where ``fields.domain`` is None, ``label`` is every row's label.

    Raises:
        ShardError: not a whole Parquet file, or a column is missing or holds no text.

    """
    try:
        with pq.ParquetFile(path) as file:
            paths = [p for p in (fields.text, fields.domain, fields.license) if p]
            _require_columns(file.schema_arrow, paths, path.name)
            heads = sorted({p.split(".")[0] for p in paths})
            num_read, num_rows = 0, max(1, file.metadata.num_rows)
            for batch in file.iter_batches(_BATCH_ROWS, columns=heads):
                num_read += len(batch)
                texts = _column(batch, fields.text, pa.large_binary())
                labels = (
                    _column(batch, fields.domain, pa.large_string())
                    if fields.domain
                    else [label] * len(batch)
                )
                licenses = (
                    _column(batch, fields.license, pa.large_string())
                    if fields.license
                    else [None] * len(batch)
                )
                yield list(map(_row, texts, labels, licenses)), num_read / num_rows
    except (pa.ArrowInvalid, OSError) as error:
        raise ShardError(
            f"{path.name} is not a whole Parquet file: {error}. It was truncated or corrupted: "
            f"fetch it again, and compare its sha256 with the publisher's."
        ) from error


def _row(text: Any, label: Any, granted: Any) -> Row:
    reject = None
    if text is None:
        reject = RejectReason.MISSING_TEXT
    elif label is None:
        reject = RejectReason.MISSING_DOMAIN
    elif not text.isascii():
        try:
            text.decode("utf-8")
        except UnicodeDecodeError:
            reject = RejectReason.INVALID_UTF8
    return Row(text or b"", label or "", granted, reject)


def _column(batch: pa.RecordBatch, path: str, kind: pa.DataType) -> list[Any]:
    head, *rest = path.split(".")
    column = batch.column(head)
    for part in rest:
        column = pc.struct_field(column, part)
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    values: list[Any] = column.cast(kind).to_pylist()
    return values


def _require_columns(schema: pa.Schema, paths: list[str], name: str) -> None:
    for path in paths:
        kind: pa.DataType = pa.struct(list(schema))
        for part in path.split("."):
            index = kind.get_field_index(part) if pa.types.is_struct(kind) else -1
            if index < 0:
                raise ShardError(
                    f"{name} has no column '{path}'. Its columns: {', '.join(schema.names)}. "
                    f"Correct source.text_field, source.domain_field or source.license_field."
                )
            kind = kind.field(index).type
        if pa.types.is_dictionary(kind):
            kind = kind.value_type
        if not (pa.types.is_string(kind) or pa.types.is_large_string(kind)):
            raise ShardError(
                f"{name}: column '{path}' holds {kind}, expected strings. Correct "
                f"source.text_field, source.domain_field or source.license_field."
            )
