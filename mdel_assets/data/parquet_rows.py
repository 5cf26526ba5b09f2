"""Turn rows of a Parquet file into documents, or into reasons for rejecting them."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from mdel_assets.data.json_lines import Fields, RejectReason
from mdel_assets.data.line_blocks import KEPT_BYTES
from mdel_assets.data.rows import Row, missing_column
from mdel_assets.errors import ShardError

_BATCH_ROWS = 1024
_BATCH_BYTES = 32 << 20
_IS_TEXT = (
    pa.types.is_string,
    pa.types.is_large_string,
    pa.types.is_string_view,
    pa.types.is_binary,
    pa.types.is_large_binary,
    pa.types.is_binary_view,
)
_IS_LIST = (
    pa.types.is_list,
    pa.types.is_large_list,
    pa.types.is_fixed_size_list,
    pa.types.is_list_view,
    pa.types.is_large_list_view,
)


def read_rows(
    path: Path, fields: Fields, *, label: str, max_text_bytes: int
) -> Iterator[tuple[list[Row], float]]:
    """Yield rows in lists, and the share of the file that is behind them.

    If ``fields.domain`` is None, ``label`` is every row's label. A list of strings is one text with
    an item per line; labels may be integers or booleans. A text of more than ``max_text_bytes`` is
    rejected.

    Raises:
        ShardError: the file is not a whole Parquet file, or a column is missing or holds no text.

    """
    try:
        with pq.ParquetFile(path) as file:
            schema = file.schema_arrow
            text = _column_path(schema, fields.text, path.name)
            domain = _column_path(schema, fields.domain, path.name, is_label=True)
            granted = _column_path(schema, fields.license, path.name)
            heads = sorted({place[0] for place in (text, domain, granted) if place})
            num_read, num_rows = 0, max(1, file.metadata.num_rows)
            for group in range(file.num_row_groups):
                size = _batch_rows(file.metadata.row_group(group))
                for batch in file.iter_batches(size, row_groups=[group], columns=heads):
                    num_read += len(batch)
                    texts = _texts(batch, text)
                    labels = _strings(batch, domain) if domain else [label] * len(batch)
                    licenses = _strings(batch, granted) if granted else [None] * len(batch)
                    found = zip(texts, labels, licenses, strict=True)
                    rows = [_row(*each, max_text_bytes) for each in found]
                    yield rows, num_read / num_rows
    except (pa.ArrowException, OSError) as error:
        raise ShardError(
            f"{path.name} is not a whole Parquet file: {error}. It was truncated or corrupted: "
            f"fetch it again, and compare its sha256 with the publisher's."
        ) from error


def _batch_rows(group: pq.RowGroupMetaData) -> int:
    """Return how many rows of a row group hold about as much as is read at a time."""
    per_row = group.total_byte_size / max(1, group.num_rows)
    return min(_BATCH_ROWS, int(_BATCH_BYTES / max(per_row, 1.0)) or 1)


def _row(text: Any, label: Any, granted: Any, limit: int) -> Row:
    reject = None
    if text is None:
        reject = RejectReason.MISSING_TEXT
    elif label is None:
        reject = RejectReason.MISSING_DOMAIN
    elif len(text) > limit:
        text, reject = text[:KEPT_BYTES], RejectReason.TOO_LONG
    elif not text.isascii():
        try:
            text.decode("utf-8")
        except UnicodeDecodeError:
            reject = RejectReason.INVALID_UTF8
    return Row(text or b"", label or "", granted, reject)


def _texts(batch: pa.RecordBatch, place: list[str]) -> list[Any]:
    """Return texts as bytes, None where there is none."""
    column = _column(batch, place)
    if any(is_list(column.type) for is_list in _IS_LIST):
        lists = column.cast(pa.list_(pa.large_binary())).to_pylist()
        return [_joined(items) for items in lists]
    found: list[Any] = column.cast(pa.large_binary()).to_pylist()
    return found


def _joined(items: list[bytes | None] | None) -> bytes | None:
    if items is None:
        return None
    return b"\n".join(item for item in items if item is not None)


def _strings(batch: pa.RecordBatch, place: list[str]) -> list[Any]:
    """Return labels or licences as strings, None where there is none."""
    column = _column(batch, place)
    if any(is_text(column.type) for is_text in _IS_TEXT):
        values = column.cast(pa.large_binary()).to_pylist()
        # Invalid UTF-8 is not a domain's label; it is shown escaped.
        return [None if v is None else v.decode("utf-8", "backslashreplace") for v in values]
    found: list[Any] = column.cast(pa.large_string()).to_pylist()
    return found


def _column(batch: pa.RecordBatch, place: list[str]) -> Any:
    head, *rest = place
    column = batch.column(head)
    for part in rest:
        column = pc.struct_field(column, part)
    return column.dictionary_decode() if pa.types.is_dictionary(column.type) else column


def _column_path(
    schema: pa.Schema, path: str | None, name: str, *, is_label: bool = False
) -> list[str]:
    """Return the names that lead to a column, none for no path, if it is of a kind that is read.

    If there are no such fields of a struct, ``path`` is the whole name of a column.
    """
    if path is None:
        return []
    if schema.names.count(path) > 1:
        raise ShardError(f"{name}: more than one column is called '{path}'. Rename all but one.")
    place = path.split(".")
    kind = _kind_at(schema, place)
    if kind is None and path in schema.names:
        place, kind = [path], schema.field(path).type
    if kind is None:
        raise missing_column(name, path, schema.names)
    if not _is_read(kind.value_type if pa.types.is_dictionary(kind) else kind, is_label=is_label):
        expected = "strings, integers or booleans" if is_label else "strings"
        raise ShardError(
            f"{name}: column '{path}' holds {kind}, expected {expected}. Store it "
            f"so (integers with gaps become floats in pandas: make them text), or correct "
            f"source.text_field, source.domain_field or source.license_field."
        )
    return place


def _is_read(kind: pa.DataType, *, is_label: bool) -> bool:
    if is_label and (pa.types.is_integer(kind) or pa.types.is_boolean(kind)):
        return True
    if not is_label and any(is_list(kind) for is_list in _IS_LIST):
        kind = kind.value_type
    return any(is_text(kind) for is_text in _IS_TEXT)


def _kind_at(schema: pa.Schema, place: list[str]) -> pa.DataType | None:
    """Return the type of the column that these names lead to, None where there is none."""
    kind: pa.DataType = pa.struct(list(schema))
    for part in place:
        index = kind.get_field_index(part) if pa.types.is_struct(kind) else -1
        if index < 0:
            return None
        kind = kind.field(index).type
    return kind
