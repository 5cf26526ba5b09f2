"""Kinds of file: recognised by the name, and for messages by the first bytes."""

import codecs
from collections.abc import Collection
from pathlib import Path
from typing import Literal

from mdel_assets.data.decompress import COMPRESSIONS, MAGIC
from mdel_assets.data.text_stream import begins_array, read_up_to, text_bytes
from mdel_assets.errors import ShardError

FileKind = Literal["lines", "array", "table", "parquet", "text"]

_LINES_SUFFIXES = {".jsonl", ".ndjson", ".json"}
_TABLE_SUFFIXES = {".csv", ".tsv"}
# Prose and source code; a user adds others as source.text_suffixes.
_TEXT_SUFFIXES = (
    "txt text md markdown rst adoc org tex bib srt vtt log py pyi js mjs jsx ts tsx java kt "
    "scala groovy c h cc cpp cxx hh hpp cu cs go rs swift m mm rb php pl pm lua sh bash r jl f "
    "f90 f95 hs ml mli ex exs erl clj lisp el scm sql v vhd asm s dart zig nim proto tf cmake "
    "css scss "
)
TEXT_SUFFIXES = frozenset(f".{name}" for name in _TEXT_SUFFIXES.split())
_HEAD_BYTES = 4096


def file_kind(file: Path, *, is_in_folder: bool, text_suffixes: Collection[str]) -> FileKind | None:
    """Return how a file is read; None if it is not read.

    In a folder a file must have a known suffix, or one of ``text_suffixes``. A file that is itself
    a shard is read as JSON lines if its suffix is unknown.
    """
    suffix = plain_suffix(file)
    if suffix == ".parquet":
        return "parquet"
    if suffix in _TABLE_SUFFIXES:
        return "table"
    if suffix in _LINES_SUFFIXES:
        return "array" if suffix == ".json" and begins_array(file) else "lines"
    if not is_in_folder:
        return "lines"
    more = {known.lower() for known in text_suffixes}
    return "text" if suffix in TEXT_SUFFIXES or suffix in more else None


def plain_suffix(file: Path) -> str:
    """Return a file's suffix in lower case, without that of its compression."""
    suffix = file.suffix.lower()
    return Path(file.stem).suffix.lower() if suffix in COMPRESSIONS else suffix


def looks_like(file: Path, *, text_field: str) -> str | None:
    """Return what an unreadable file looks like, and what to do about it.

    None if it looks like no known kind.
    """
    try:
        with text_bytes(file) as (stream, _):
            head = read_up_to(stream, _HEAD_BYTES)
    except ShardError as error:
        return str(error)
    start = head.lstrip()
    for kind, magic in MAGIC.items():
        if head.startswith(magic):
            (suffix,) = (s for s, known in COMPRESSIONS.items() if known == kind)
            return f"a file that {kind} compressed: give its name the suffix {suffix}"
    if head.startswith(b"PAR1"):
        return "Parquet: give its name the suffix .parquet"
    for magic, name in _FOREIGN.items():
        if start[: len(magic)].lower() == magic:
            return f"{name}: extract the text first"
    if encoding := _wide_encoding(head):
        return f"text in {encoding}: convert it with 'iconv -f {encoding} -t UTF-8'"
    if not _is_utf8(head):
        return (
            "text in another encoding than UTF-8, such as Windows-1252: convert it with "
            "'iconv -f WINDOWS-1252 -t UTF-8'"
        )
    if b"\r" in head and b"\n" not in head:
        return "lines that end in carriage returns alone: convert them with \"tr '\\r' '\\n'\""
    if start.startswith(b"["):
        return "one JSON array: give its name the suffix .json"
    if start.startswith(b"{"):
        first = start.splitlines()[0].rstrip()
        is_one_line = first.endswith(b"}") or len(first) >= _HEAD_BYTES - 1
        return None if is_one_line else "JSON over several lines: write each record on one line"
    return _table_or_text(head, text_field)


_FOREIGN = {
    b"%pdf-": "a PDF",
    b"pk\x03\x04": "a ZIP archive, as DOCX, XLSX and EPUB are",
    b"\xd0\xcf\x11\xe0": "an old Office document",
    b"<!doctype html": "HTML",
    b"<html": "HTML",
    b"<?xml": "XML",
    b"{\\rtf": "RTF",
}


def _wide_encoding(head: bytes) -> str | None:
    """Return UTF-16 or UTF-32, recognised by zero bytes in a file without a byte order mark."""
    if head.startswith((codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE)):
        return "UTF-32"
    for name, zeros, others in (
        ("UTF-16LE", head[1::2], head[0::2]),
        ("UTF-16BE", head[0::2], head[1::2]),
    ):
        if 2 * zeros.count(0) > len(zeros) and 2 * others.count(0) < len(others):
            return name
    return None


def _is_utf8(head: bytes) -> bool:
    """Whether the beginning of a file is UTF-8, a character cut at its end apart, or no text."""
    if b"\0" in head:
        return True
    try:
        codecs.getincrementaldecoder("utf-8")().decode(head)
    except UnicodeDecodeError:
        return False
    return True


def _table_or_text(head: bytes, text_field: str) -> str | None:
    first = head.splitlines()[0] if head else b""
    if b"\0" in head or not first.strip():
        return None
    for delimiter, suffix in ((b"\t", ".tsv"), (b",", ".csv"), (b";", ".csv")):
        cells = [cell.strip().strip(b'"') for cell in first.split(delimiter)]
        if len(cells) > 1 and text_field.encode() in cells:
            return f"a table with a header: give its name the suffix {suffix}"
    return "plain text: use layout 'folders', which reads each file as one document"
