"""Turn rows of a CSV or TSV file into documents, or into reasons for rejecting them.

Lines come from `line_blocks`, as for JSON; Python's csv reader joins them to rows. So memory is
bounded even if a quote is never closed, and a broken row affects no other row. (Arrow's reader
reads tens of blocks ahead, and gives up on a file with a row longer than a block.)
"""

import csv
import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path

from mdel_assets.data.file_kinds import looks_like, plain_suffix
from mdel_assets.data.json_lines import Fields, RejectReason
from mdel_assets.data.line_blocks import KEPT_BYTES, read_blocks
from mdel_assets.data.rows import Row, missing_column
from mdel_assets.errors import ShardError

_ROWS_PER_LIST = 1024
_BYTES_PER_LIST = 32 << 20
# Python's reader holds a row at four bytes a character, and room for another of its size.
_MAX_ROW_BYTES = 32 << 20
_DELIMITERS = {".csv": ",;\t", ".tsv": "\t"}


def read_csv_rows(
    path: Path, fields: Fields, *, label: str, max_row_bytes: int
) -> Iterator[tuple[list[Row], float]]:
    """Yield rows in lists, and the share of the file that is behind them.

    The first row names the columns. Cells of a ``.csv`` are separated by commas, or by semicolons
    or tabs if only these give the wanted columns. If ``fields.domain`` is None, ``label`` is every
    row's label. A row of more than ``max_row_bytes``, or of 32 MiB, is rejected; empty lines are
    not rows.

    Raises:
        ShardError: the file is not whole, or a column is missing.

    """
    # This limit is the process's; `_Lines` holds rows to theirs.
    csv.field_size_limit(max(csv.field_size_limit(), _MAX_ROW_BYTES))
    lines = _Lines(path, min(max_row_bytes, _MAX_ROW_BYTES))
    columns = _Columns.find(path, lines.read_header(), fields)
    reader = csv.reader(lines, delimiter=columns.delimiter, strict=True)
    rows: list[Row] = []
    num_bytes = 0
    while True:
        lines.begin_row()
        try:
            cells = next(reader)
        except StopIteration:
            break
        except _TooLongError:
            rows.append(lines.rejected(RejectReason.TOO_LONG))
        except csv.Error:
            rows.append(lines.rejected(RejectReason.INVALID_ROW))
        else:
            if cells:
                rows.append(columns.row(cells, label) or lines.rejected(RejectReason.INVALID_ROW))
        num_bytes += lines.row_bytes
        if len(rows) == _ROWS_PER_LIST or num_bytes >= _BYTES_PER_LIST:
            yield rows, lines.share_read
            rows, num_bytes = [], 0
    yield rows, 1.0


class _TooLongError(Exception):
    """A row is longer than it may be."""


class _Lines:
    """The lines of a file as text, with invalid UTF-8 escaped; remembers how a row begins.

    ``row_bytes`` is how much of the row that was begun last has been read.
    """

    def __init__(self, path: Path, limit: int) -> None:
        self.share_read = 0.0
        self.row_bytes = 0
        self._limit = limit
        self._lines = self._read(path)
        self._beginning = b""

    def __iter__(self) -> "_Lines":
        return self

    def __next__(self) -> str:
        line = next(self._lines)
        self.row_bytes += len(line)
        if len(self._beginning) < KEPT_BYTES:
            self._beginning += line[:KEPT_BYTES]
        if self.row_bytes > self._limit:
            raise _TooLongError
        return line.decode("utf-8", "surrogateescape")

    def read_header(self) -> str:
        """Return the first row; an empty string if there is none."""
        try:
            header = next(self, "")
            while header.count('"') % 2 and (line := next(self, "")):
                header += line
        except _TooLongError:
            return ""
        return header

    def begin_row(self) -> None:
        """Forget the rows before."""
        self._beginning, self.row_bytes = b"", 0

    def rejected(self, reason: RejectReason) -> Row:
        """Return the row that was begun last as a rejected one."""
        return Row(self._beginning[:KEPT_BYTES], "", None, reason)

    def _read(self, path: Path) -> Iterator[bytes]:
        for block in read_blocks(path, max_line_bytes=self._limit):
            self.share_read = block.share_read
            lines = bytes(memoryview(block.data)[: block.size]).split(b"\n")
            for line in lines[:-1]:
                yield line + b"\n"
            if block.too_long is not None:
                self.row_bytes = self._limit
                yield block.too_long


@dataclasses.dataclass(frozen=True)
class _Columns:
    """The positions of the fields in a row, and its number of cells."""

    delimiter: str
    num_cells: int
    text: int
    domain: int | None
    license: int | None

    @classmethod
    def find(cls, path: Path, header: str, fields: Fields) -> "_Columns":
        """Return the places of the columns by a file's header.

        Raises:
            ShardError: a column is missing.

        """
        wanted = [name for name in (fields.text, fields.domain, fields.license) if name]
        found: Sequence[str] = []
        for delimiter in _DELIMITERS[plain_suffix(path)]:
            try:
                cells = next(csv.reader([header], delimiter=delimiter), [])
            except csv.Error:
                cells = []
            if not cells:
                raise _no_header(path, fields)
            names = [name.strip() for name in cells]
            if set(wanted) <= set(names):
                return cls(
                    delimiter,
                    num_cells=len(names),
                    text=names.index(fields.text),
                    domain=names.index(fields.domain) if fields.domain else None,
                    license=names.index(fields.license) if fields.license else None,
                )
            found = names if len(names) > len(found) else found
        missing = next(name for name in wanted if name not in found)
        raise missing_column(path.name, missing, found)

    def row(self, cells: Sequence[str], label: str) -> Row | None:
        """Return the document of a row; None if the row has too few or too many cells."""
        if len(cells) != self.num_cells:
            return None
        text = _bytes(cells[self.text])
        reject = None if text.isascii() or _is_utf8(text) else RejectReason.INVALID_UTF8
        if self.domain is not None:
            label = cells[self.domain]
            reject = reject or (None if label else RejectReason.MISSING_DOMAIN)
        granted = cells[self.license] if self.license is not None else None
        return Row(text, _shown(label), granted, reject)


def _no_header(path: Path, fields: Fields) -> ShardError:
    look = looks_like(path, text_field=fields.text)
    told = f" It looks like {look}." if look else ""
    return ShardError(f"{path.name} has no first row that names its columns.{told}")


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")


def _shown(label: str) -> str:
    """Return a label that holds no escaped byte any more."""
    return label if label.isprintable() else _bytes(label).decode("utf-8", "backslashreplace")


def _is_utf8(text: bytes) -> bool:
    try:
        text.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True
