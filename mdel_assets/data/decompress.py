"""Decompression: the plain bytes of a zstd, gzip, bzip2, xz or plain file, or a refusal.

A file that ends too early, goes on too long or is corrupt is refused; concatenated frames and
members are one stream; skippable frames and gzip's padding are skipped.
"""

import bz2
import contextlib
import lzma
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, Protocol, cast

import zstandard
from isal import isal_zlib

from mdel_assets.data.zstd_frames import FrameError, FrameWatcher
from mdel_assets.errors import ShardError

_READ_BYTES = 4 << 20
# The format's largest window needs as much memory; only files written with --long=31 have it.
_MAX_WINDOW_BYTES = 2**31
_GZIP_WRAPPER = 16 + zlib.MAX_WBITS
_GZIP_MAGIC = b"\x1f\x8b"
# xz -9 needs 65 MiB; the file states its dictionary's size, which is allocated at once.
_MAX_XZ_BYTES = 1 << 29
COMPRESSIONS = {".zst": "zstd", ".gz": "gzip", ".bz2": "bzip2", ".xz": "xz"}
MAGIC = {
    "zstd": b"\x28\xb5\x2f\xfd",
    "gzip": _GZIP_MAGIC,
    "bzip2": b"BZh",
    "xz": b"\xfd7zXZ\x00",
}


class PlainBytes(Protocol):
    """The plain content of a file."""

    def readinto(self, buffer: memoryview) -> int:
        """Fill ``buffer`` from its start; return how many bytes were filled, 0 at the end."""


@contextlib.contextmanager
def plain_bytes(path: Path) -> Iterator[tuple[PlainBytes, BinaryIO]]:
    """Open a file by its suffix; yield its plain content, and the raw file to measure progress.

    Raises:
        ShardError: also while reading: truncated, corrupt, followed by garbage, or empty.

    """
    kind = COMPRESSIONS.get(path.suffix.lower(), "plain")
    try:
        with path.open("rb") as file:
            yield _OPENERS[kind](file), file
    except (zstandard.ZstdError, isal_zlib.error, FrameError) as error:  # type: ignore[misc]
        raise ShardError(
            f"{path.name} is not a whole {kind} file: {error}. It was truncated or corrupted: "
            f"fetch it again, and compare its sha256 with the publisher's."
        ) from error


class _Plain:
    def __init__(self, file: BinaryIO) -> None:
        self._file = file

    def readinto(self, buffer: memoryview) -> int:
        return self._file.readinto(buffer)  # type: ignore[attr-defined, no-any-return]


class _Zstd:
    def __init__(self, file: BinaryIO) -> None:
        self._watcher = FrameWatcher(file)
        decompressor = zstandard.ZstdDecompressor(max_window_size=_MAX_WINDOW_BYTES)
        self._stream = decompressor.stream_reader(
            cast("BinaryIO", self._watcher), read_size=_READ_BYTES, read_across_frames=True
        )

    def readinto(self, buffer: memoryview) -> int:
        size: int = self._stream.readinto(buffer)
        if not size:
            self._watcher.require_whole()
        return size


class _Gzip:
    """Members one after the other; zero bytes after the last are padding, as for gzip itself."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._member = isal_zlib.decompressobj(wbits=_GZIP_WRAPPER)
        self._waiting = b""
        self._num_members = 0
        self._is_inside = False

    def readinto(self, buffer: memoryview) -> int:
        while True:
            data = self._waiting or self._file.read(_READ_BYTES)
            if not data:
                if self._is_inside or not self._num_members:
                    raise FrameError("the file ends inside a gzip member")
                return 0
            if not self._is_inside and self._num_members and not data.strip(b"\0"):
                self._waiting = b""
                continue
            if not self._is_inside and data[:2] != _GZIP_MAGIC[: len(data)]:
                raise FrameError(f"bytes {data[:4].hex()} are not the start of a gzip member")
            self._is_inside = True
            plain = self._member.decompress(data, len(buffer))
            self._waiting = self._member.unconsumed_tail
            if self._member.eof:
                self._waiting = self._member.unused_data
                self._member = isal_zlib.decompressobj(wbits=_GZIP_WRAPPER)
                self._is_inside = False
                self._num_members += 1
            if plain:
                buffer[: len(plain)] = plain
                return len(plain)


class _Streams:
    """Streams of bzip2 or xz one after the other; zero bytes after the last are padding."""

    def __init__(self, file: BinaryIO, new: Callable[[], Any]) -> None:
        self._file = file
        self._new = new
        self._stream: Any = None
        self._waiting = b""
        self._num_streams = 0

    def readinto(self, buffer: memoryview) -> int:
        while True:
            data = b""
            if self._stream is None or self._stream.needs_input:
                data = self._waiting or self._file.read(_READ_BYTES)
                self._waiting = b""
                if not data:
                    if self._stream is not None or not self._num_streams:
                        raise FrameError("the file ends inside a stream")
                    return 0
            if self._stream is None:
                if self._num_streams and not (data := data.lstrip(b"\0")):
                    continue
                self._stream = self._new()
            try:
                plain = self._stream.decompress(data, len(buffer))
            except (OSError, lzma.LZMAError) as error:
                raise FrameError(str(error)) from error
            if self._stream.eof:
                self._waiting = self._stream.unused_data
                self._stream = None
                self._num_streams += 1
            if plain:
                buffer[: len(plain)] = plain
                return len(plain)


def _bzip2(file: BinaryIO) -> PlainBytes:
    return _Streams(file, bz2.BZ2Decompressor)


def _xz(file: BinaryIO) -> PlainBytes:
    return _Streams(file, lambda: lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=_MAX_XZ_BYTES))


_OPENERS: dict[str, Callable[[BinaryIO], PlainBytes]] = {
    "zstd": _Zstd,
    "gzip": _Gzip,
    "bzip2": _bzip2,
    "xz": _xz,
    "plain": _Plain,
}
