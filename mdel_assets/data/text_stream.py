"""A file's text as UTF-8 bytes: decompressed, without its byte order mark, UTF-16 recoded.

A file of JSON that is one array comes out as one line per element (`array_as_lines`), so that all
that reads lines reads it too.
"""

import codecs
import contextlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from mdel_assets.data.decompress import PlainBytes, plain_bytes
from mdel_assets.errors import ShardError

_MARK_BYTES = 3
_RECODED_BYTES = 1 << 20
_UTF16 = {codecs.BOM_UTF16_LE: "utf-16-le", codecs.BOM_UTF16_BE: "utf-16-be"}
_WHITE_SPACE = b" \t\r\n"
# What ends a stretch of bytes inside a string, and outside of one.
_IN_STRING = re.compile(rb'[^"\\]*')
_OUTSIDE = re.compile(rb'[^"\[\]{},\n]*')


class NotUtf16Error(ShardError):
    """A file that begins with the byte order mark of UTF-16 and is not UTF-16."""


@contextlib.contextmanager
def text_bytes(path: Path, *, is_array: bool = False) -> Iterator[tuple[PlainBytes, BinaryIO]]:
    """Open a file by its suffix and its byte order mark, as `plain_bytes` does by its suffix alone.

    With ``is_array``, the file is one JSON array and yields a line per element.

    Raises:
        ShardError: also while reading: the file is not whole, not UTF-16 after its mark, or not an
            array.

    """
    with plain_bytes(path) as (plain, raw):
        head = read_up_to(plain, _MARK_BYTES)
        for mark, encoding in _UTF16.items():
            if head.startswith(mark):
                head = head.removeprefix(mark)
                text: PlainBytes = _Recoded(_After(head, plain), encoding, path.name)
                break
        else:
            text = _After(head.removeprefix(codecs.BOM_UTF8), plain)
        yield _ArrayAsLines(text, path.name) if is_array else text, raw


def begins_array(path: Path) -> bool:
    """Whether the first character of a file after white space opens a JSON array."""
    with text_bytes(path) as (stream, _):
        data = bytearray(_RECODED_BYTES)
        while size := stream.readinto(memoryview(data)):
            if head := bytes(data[:size]).lstrip(_WHITE_SPACE):
                return head.startswith(b"[")
    return False


def read_up_to(stream: PlainBytes, num_bytes: int) -> bytes:
    """Return the next ``num_bytes`` of a stream, fewer only at its end."""
    found = bytearray()
    step = bytearray(min(num_bytes, _RECODED_BYTES))
    while len(found) < num_bytes:
        size = stream.readinto(memoryview(step)[: num_bytes - len(found)])
        if not size:
            break
        found += step[:size]
    return bytes(found)


class _After:
    """The bytes of ``head``, followed by those of a stream."""

    def __init__(self, head: bytes, stream: PlainBytes) -> None:
        self._head = head
        self._stream = stream

    def readinto(self, buffer: memoryview) -> int:
        if not self._head:
            return self._stream.readinto(buffer)
        size = min(len(self._head), len(buffer))
        buffer[:size] = self._head[:size]
        self._head = self._head[size:]
        return size


class _Recoded:
    """A stream of UTF-16 as UTF-8."""

    def __init__(self, stream: PlainBytes, encoding: str, name: str) -> None:
        self._stream = stream
        self._decoder = codecs.getincrementaldecoder(encoding)()
        self._name = name
        self._data = bytearray(_RECODED_BYTES)
        self._waiting = b""
        self._at_end = False

    def readinto(self, buffer: memoryview) -> int:
        while not self._waiting and not self._at_end:
            size = self._stream.readinto(memoryview(self._data))
            self._at_end = not size
            try:
                text = self._decoder.decode(bytes(self._data[:size]), final=self._at_end)
            except UnicodeDecodeError as error:
                raise NotUtf16Error(
                    f"{self._name} begins with the byte order mark of UTF-16 but is not UTF-16 "
                    f"throughout ({error.reason}). Convert it: iconv -f UTF-16 -t UTF-8."
                ) from error
            self._waiting = text.encode()
        size = min(len(self._waiting), len(buffer))
        buffer[:size] = self._waiting[:size]
        self._waiting = self._waiting[size:]
        return size


class _ArrayAsLines:
    """A JSON array as one line per element, with the same number of bytes.

    Commas between elements become newlines. Newlines become carriage returns, which JSON also
    treats as white space and also forbids inside strings, so an element's mistakes stay mistakes.
    """

    def __init__(self, stream: PlainBytes, name: str) -> None:
        self._stream = stream
        self._name = name
        self._depth = 0
        self._in_string = self._after_backslash = self._is_closed = False

    def readinto(self, buffer: memoryview) -> int:
        size = self._stream.readinto(buffer)
        if not size and not self._is_closed:
            raise ShardError(
                f"{self._name} ends inside its JSON array: it was truncated. Fetch it again."
            )
        place = 0
        while place < size:
            place = (
                self._string(buffer, place, size)
                if self._in_string
                else (self._outside(buffer, place, size))
            )
        return size

    def _string(self, buffer: memoryview, place: int, size: int) -> int:
        if self._after_backslash:
            self._after_backslash = False
            _without_newline(buffer, place)
            return place + 1
        stretch = _IN_STRING.match(buffer[:size], place)
        assert stretch
        end = stretch.end()
        found = bytes(buffer[place:end])
        if b"\n" in found:
            buffer[place:end] = found.replace(b"\n", b"\r")
        if end < size:
            self._in_string = buffer[end] != ord('"')
            self._after_backslash = self._in_string
        return end + 1

    def _outside(self, buffer: memoryview, place: int, size: int) -> int:
        stretch = _OUTSIDE.match(buffer[:size], place)
        assert stretch
        end = stretch.end()
        if not self._depth and bytes(buffer[place:end]).strip(_WHITE_SPACE):
            self._refuse()
        if end == size:
            return end
        sign = buffer[end : end + 1].tobytes()
        _without_newline(buffer, end)
        if sign in b"[{":
            self._open(buffer, end, sign)
        elif sign in b"]}":
            self._depth -= 1
            if not self._depth:
                self._is_closed = True
                buffer[end] = ord(" ")
        elif sign != b"\n" and not self._depth:
            self._refuse()
        elif sign == b'"':
            self._in_string = True
        elif sign == b"," and self._depth == 1:
            buffer[end] = ord("\n")
        return end + 1

    def _open(self, buffer: memoryview, place: int, sign: bytes) -> None:
        if not self._depth:
            if self._is_closed or sign != b"[":
                self._refuse()
            buffer[place] = ord(" ")
        self._depth += 1

    def _refuse(self) -> None:
        where = "continues after its JSON array" if self._is_closed else "does not begin with '['"
        raise ShardError(
            f"{self._name} {where}. A .json file is one array of records; for one record per line "
            f"(JSON lines), rename it to .jsonl."
        )


def _without_newline(buffer: memoryview, place: int) -> None:
    if buffer[place] == ord("\n"):
        buffer[place] = ord("\r")
